"""Noisy trials in blocks of four, with a constraint: the best point by luck, and the one to recommend."""

import random

import optuna
import optunahub

package = optunahub.load_module(package="samplers/batch_gp")
space = {
    "x": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
    "kind": optuna.distributions.CategoricalDistribution(("a", "b")),
}
noise = random.Random(0)


def objective(trial: optuna.Trial) -> float:
    """A noisy value to minimise; the constraint `size` is kept where it is at most 0."""
    x, kind = trial.params["x"], trial.params["kind"]
    trial.set_constraint("size", x - 0.5)
    value = (x - 0.1) ** 2 + (0.05 if kind == "a" else 0.0) + noise.gauss(0, 0.01)
    return float(value)


study = optuna.create_study(sampler=package.BatchGPSampler(space, block_size=4, seed=0))
for _ in range(8):
    for trial in [study.ask(space) for _ in range(4)]:
        study.tell(trial, objective(trial))
print("best", study.best_params)
recommended = package.recommend(study.trials, space, direction=study.direction)
print("recommended", study.trials[recommended.number].params, recommended.mean)
