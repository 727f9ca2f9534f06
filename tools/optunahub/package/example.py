"""Two objectives and a constraint: the Pareto set of Binh and Korn's problem by MADS."""

import optuna
import optunahub


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Two values to minimise, and a constraint: kept where it is at most 0."""
    x = trial.suggest_float("x", 0, 5)
    y = trial.suggest_float("y", 0, 3)
    trial.set_constraint("disc", (x - 5) ** 2 + y**2 - 25)
    return 4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2


sampler = optunahub.load_module(package="samplers/mads").MadsSampler(seed=0)
study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
study.optimize(objective, n_trials=60)
for trial in study.best_trials:
    print(trial.params, trial.values)
