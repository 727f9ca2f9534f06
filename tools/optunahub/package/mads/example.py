"""Two objectives and a constraint: the Pareto set by MADS."""

import optuna
import optunahub


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Two values to minimise; the constraint `line` is kept where it is at most 0."""
    x, y = trial.suggest_float("x", 0.1, 1), trial.suggest_float("y", 0, 5)
    trial.set_constraint("line", 6 - y - 9 * x)
    return x, (1 + y) / x


sampler = optunahub.load_module(package="samplers/mads").MadsSampler(seed=0)
study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
study.optimize(objective, n_trials=60)
for trial in study.best_trials:  # the Pareto set
    print(trial.params, trial.values)
