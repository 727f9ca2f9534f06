"""Non-inferiority: which candidates are shown to be no worse than the models they would replace, on every benchmark.

A candidate is `kept` where the simultaneous lower bounds of all its differences from the references lie above minus the
margin, `dropped` where a simultaneous upper bound lies below it, and `undecided` otherwise. The bounds hold for all
candidates, references and benchmarks at once: as many standard errors away as the largest of all resampled differences
is, each divided by its standard error. Where answers are known, no bound is nearer than the score bound of the pair for
so many standard errors (`paired`): the differences of a few discordant items are skewed, and no one width of standard
errors holds on both sides. They cover the choice of items, not of seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from meshtune.selection.measured import Array, Measured
from meshtune.selection.paired import margins
from meshtune.selection.resampling import at_least, least_error, simultaneous

MARGIN = 1.0  # points


class Verdict(StrEnum):
    """What the guard says of a candidate."""

    KEPT = "kept"
    UNDECIDED = "undecided"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Comparison:
    """A candidate minus a reference on a benchmark, in points, with its simultaneous one-sided 95 % bounds."""

    candidate: str
    reference: str
    benchmark: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Guard:
    """Verdicts by candidate, and what they rest on. Without a reference everybody is kept."""

    verdicts: dict[str, Verdict]
    comparisons: tuple[Comparison, ...]


def guard(
    measured: Measured,
    draws: Array,
    candidates: Sequence[str],
    references: Sequence[str],
    margin: float = MARGIN,
    level: float = 0.95,
) -> Guard:
    """Judge the candidates. `draws`: of `measured`, as `resample` gives them. A reference is not compared to itself."""
    pairs = [(name, other) for name in candidates for other in references if name != other]
    if not pairs:
        return Guard(dict.fromkeys(candidates, Verdict.KEPT), ())
    place = {name: number for number, name in enumerate(measured.names)}
    mine, theirs = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    difference = measured.scores[mine] - measured.scores[theirs]
    drawn = draws[:, mine] - draws[:, theirs]
    least = np.array([least_error(measure) for measure in measured.measures])
    error = np.sqrt(drawn.var(axis=0) + least**2)
    error[error == 0] = 1.0  # the same in every draw: the bounds are the difference itself
    away = ((at_least(drawn, least) - difference) / error).reshape(len(drawn), -1)
    width = simultaneous(np.concatenate([away.max(axis=1), (-away).max(axis=1)]), level)
    apart = np.stack([margins(measure, mine, theirs, width) for measure in measured.measures], axis=1)
    low = difference - np.maximum(width * error, apart[:, :, 0])
    high = difference + np.maximum(width * error, apart[:, :, 1])
    verdicts = {}
    for name in candidates:
        own = [number for number, pair in enumerate(pairs) if pair[0] == name]
        if (high[own] < -margin).any():
            verdicts[name] = Verdict.DROPPED
        else:
            verdicts[name] = Verdict.KEPT if (low[own] > -margin).all() else Verdict.UNDECIDED
    comparisons = tuple(
        Comparison(*pair, measure.name, float(difference[row, kind]), float(low[row, kind]), float(high[row, kind]))
        for row, pair in enumerate(pairs)
        for kind, measure in enumerate(measured.measures)
    )
    return Guard(verdicts, comparisons)
