"""The evaluated point that is most likely the best, whichever sampler proposed it.

The lowest of many noisy values is a lucky one: a point is judged by its neighbours too, by the Gaussian process that
`BatchGPSampler` searches with. It follows from the trials alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.model import objective
from meshtune.samplers.gp.observations import Pruned, observed
from meshtune.samplers.gp.space import Cube
from meshtune.samplers.outcomes import TrialReader, constraint_names

FEWEST = 5  # values that a model needs to correct any of them


@dataclass(frozen=True)
class Recommendation:
    """A trial and its value without noise: `mean` with a standard `deviation`; one evaluation's is `noise`."""

    number: int
    mean: float
    deviation: float
    noise: float


def recommend(
    trials: Sequence[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    *,
    direction: StudyDirection,
    hidden_constraints: Collection[str] = (),
    pruned: Pruned = "left_out",
) -> Recommendation | None:
    """The complete, feasible trial with the best posterior mean; None where fewer than five have a value.

    Args:
        trials: of one study, with its `direction`. space: Optuna distributions by name; trials outside it are left out.
        hidden_constraints, pruned: as for `BatchGPSampler`.
    """
    encoding = Encoding(space)
    if not encoding.space:
        return None
    cube, names = Cube(encoding), constraint_names(trials, hidden_constraints)
    reader = TrialReader((direction,), names, frozenset(hidden_constraints), "value" if pruned == "value" else "failed")
    observations = observed(trials, cube, reader, space="", pruned=pruned)
    states = {trial.number: trial.state for trial in trials}
    ended = np.array([states[number] is TrialState.COMPLETE for number in observations.numbers], dtype=bool)
    allowed = np.isfinite(observations.objectives) & ended
    for values in observations.constraints.values():
        allowed &= values <= 0
    if not allowed.any() or np.isfinite(observations.objectives).sum() < FEWEST:
        return None
    belief = objective(cube, observations, "steady", {}, {})
    means, deviations = belief(observations.rows)
    index = int(np.argmin(np.where(allowed, means, np.inf)))
    sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
    return Recommendation(
        observations.numbers[index], sign * float(means[index]), float(deviations[index]), belief.noise
    )
