"""A sampler of one's own: an Optuna `BaseSampler`, named in a study as `my_sampler.py:NearBest`."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState


class NearBest(BaseSampler):
    """Draws `tries` random points and proposes the one that lies nearest to the best so far.

    It is built afresh for each proposal: what it knows is in the study. All its chance comes from `seed`, so that a
    study that was interrupted goes on as it would have gone.
    """

    def __init__(self, seed: int | None = None, tries: int = 3):
        self._random = RandomSampler(seed=seed)
        self._tries = tries

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Which parameters are drawn together; meshtune passes all that are searched, whatever stands here."""
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point: a value for each parameter."""
        points = [
            {name: self._random.sample_independent(study, trial, name, space) for name, space in search_space.items()}
            for _ in range(self._tries)
        ]
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return points[0]
        best = min(done, key=lambda other: other.value if other.value is not None else float("inf"))
        return min(points, key=lambda point: _distance(point, best.params, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for a parameter that `sample_relative` left out."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _distance(point: Mapping[str, Any], best: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> float:
    """Sum over the parameters of their distance, as a share of the range; 1 for another choice of a list."""
    total = 0.0
    for name, distribution in space.items():
        low, high = getattr(distribution, "low", None), getattr(distribution, "high", None)
        if low is None or high is None:
            total += float(point[name] != best.get(name))
        else:
            total += abs(point[name] - best.get(name, low)) / (high - low)
    return total
