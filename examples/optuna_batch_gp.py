"""A Gaussian process in plain Optuna, four noisy trials at once, with a constraint: `pip install .` alone."""

import random

import optuna

from meshtune.samplers import BatchGPSampler
from meshtune.samplers.recommend import recommend

SPACE = {
    "rank": optuna.distributions.IntDistribution(4, 256, log=True),
    "rate": optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True),
    "schedule": optuna.distributions.CategoricalDistribution(("linear", "cosine")),
}
NOISE = random.Random(0)


def objective(trial: optuna.Trial) -> float:
    """A loss with noise; the constraint `memory` is kept where it is at most 0."""
    rank, rate = trial.params["rank"], trial.params["rate"]
    trial.set_constraint("memory", rank / 100 - 1)
    loss = abs(rate - 3e-4) * 1e3 + abs(rank - 64) / 200 + (0.0 if trial.params["schedule"] == "cosine" else 0.1)
    return loss + NOISE.gauss(0, 0.02)


study = optuna.create_study(sampler=BatchGPSampler(SPACE, block_size=4, seed=0))
for _ in range(8):
    block = [study.ask(SPACE) for _ in range(4)]
    for trial in block:
        study.tell(trial, objective(trial))
print("best", study.best_trial.params, study.best_value)
if recommended := recommend(study.trials, SPACE, direction=study.direction):
    print("recommended", study.trials[recommended.number].params, recommended.mean, "+-", recommended.deviation)
