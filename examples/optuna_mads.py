"""MADS in plain Optuna, with a constraint and two objectives: needs `pip install .` alone."""

import optuna

from meshtune.samplers import MadsSampler


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Two values to minimise; the constraint `line` is kept where it is at most 0."""
    x, y = trial.suggest_float("x", 0.1, 1), trial.suggest_float("y", 0, 5)
    trial.set_constraint("line", 6 - y - 9 * x)
    return x, (1 + y) / x


study = optuna.create_study(directions=["minimize", "minimize"], sampler=MadsSampler(seed=0))
study.optimize(objective, n_trials=60)
for trial in study.best_trials:  # the Pareto set
    print(trial.params, trial.values)
