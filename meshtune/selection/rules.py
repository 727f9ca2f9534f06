"""Rules that order candidates by several scores. All work on one table of scores or on many resampled ones at once.

A rule gives merits: higher is better, equal ones are tied. Differences below 1e-9 are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from meshtune.errors import Fault, InputError, nearest, refuse
from meshtune.selection.measured import Array

RuleName = Literal["mean_rank", "ideal_point", "weighted_sum", "lexicographic", "validation_loss"]
RULES: tuple[RuleName, ...] = get_args(RuleName)
DESCRIBED: Mapping[str, str] = {
    "mean_rank": "mean rank",
    "ideal_point": "distance to the ideal point",
    "weighted_sum": "weighted sum",
    "lexicographic": "lexicographic order with tolerance",
    "validation_loss": "validation loss",
}
SAME = 1e-9


@dataclass(frozen=True)
class Rule:
    """A named rule.

    Attributes:
        name: mean_rank (lowest mean over benchmarks of the rank, ties sharing theirs), ideal_point (nearest to the best
            score on every benchmark, each scaled to its range), weighted_sum, lexicographic (within `tolerance` of the
            best on the first benchmark, among these on the second, and so on), validation_loss.
        weights: of benchmarks, for weighted_sum; missing ones weigh 1. tolerance: points, for lexicographic.
        order: benchmarks from the most important, for lexicographic; the others follow as they stand.
    """

    name: RuleName = "mean_rank"
    weights: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 1.0
    order: tuple[str, ...] = ()


DEFAULT = Rule()


def named(text: str) -> RuleName:
    """The rule that a command line names, with hyphens or underscores. Raises InputError."""
    found = next((name for name in RULES if name == text.replace("-", "_")), None)
    if found is None:
        known = ", ".join(RULES)
        raise InputError(f"--rule {text}: there are {known}.{nearest(text.replace('-', '_'), RULES)}")
    return found


def check(rule: Rule, benchmarks: Sequence[str]) -> None:
    """Refuse what a rule does not know, all at once. Raises InputError."""
    faults = []
    if rule.name not in RULES:
        faults.append(
            Fault(f"no rule is called `{rule.name}`; there are {', '.join(RULES)}.{nearest(rule.name, RULES)}")
        )
    for name in dict.fromkeys([*rule.weights, *rule.order]):
        if name not in benchmarks:
            known = ", ".join(benchmarks)
            faults.append(Fault(f"`{name}` is no benchmark that counts; these do: {known}.{nearest(name, benchmarks)}"))
    wrong = [name for name, weight in rule.weights.items() if not 0 <= weight < float("inf")]
    faults += [Fault(f"the weight of {name} is {rule.weights[name]:g}: weights are 0 or more") for name in wrong]
    if not 0 <= rule.tolerance < float("inf"):
        faults.append(Fault(f"a tolerance of {rule.tolerance:g} points is none: it is 0 or more"))
    refuse(faults)


def weights_of(rule: Rule, benchmarks: Sequence[str]) -> Array:
    """What each benchmark weighs in the mean score; they add up to 1. Raises InputError where all weigh nothing."""
    weights = np.array([rule.weights.get(name, 1.0) for name in benchmarks], float)
    if rule.name != "weighted_sum":
        weights = np.ones(len(benchmarks))
    if weights.sum() == 0:
        raise InputError("all benchmarks weigh 0: give one of them a weight")
    return np.asarray(weights / weights.sum())


def merits(rule: Rule, scores: Array, benchmarks: Sequence[str], losses: Array | None = None) -> Array:
    """The merit of each candidate.

    Args:
        scores: (.., candidates, benchmarks), points. losses: (candidates,), for validation_loss.

    Returns (.., candidates).
    """
    flat = scores.reshape(-1, *scores.shape[-2:])
    match rule.name:
        case "mean_rank":
            found = -ranks(flat).mean(axis=2)
        case "ideal_point":
            found = _ideal_point(flat)
        case "weighted_sum":
            found = flat @ weights_of(rule, benchmarks)
        case "lexicographic":
            order = [*rule.order, *(name for name in benchmarks if name not in rule.order)]
            found = _lexicographic(flat[:, :, [list(benchmarks).index(name) for name in order]], rule.tolerance)
        case "validation_loss":
            if losses is None or np.isnan(losses).any():
                raise InputError("the rule validation_loss needs the loss of every candidate, and some have none")
            found = np.broadcast_to(-losses, flat.shape[:2])
    return np.asarray(found.reshape(scores.shape[:-1]))


def ranks(scores: Array) -> Array:
    """Ranks from 1 for the highest, ties sharing the mean of theirs: (draws, candidates, benchmarks) likewise."""
    rows = np.ascontiguousarray(np.moveaxis(scores, 1, 0))
    found = np.full(rows.shape, (len(rows) + 1) / 2)
    for mine in range(len(rows)):
        for other in range(mine):
            ahead = rows[other] - rows[mine]
            half = 0.5 * (ahead > SAME) - 0.5 * (ahead < -SAME)
            found[mine] += half
            found[other] -= half
    return np.moveaxis(found, 0, 1)


def winners(found: Array) -> NDArray[np.bool_]:
    """Who has the highest merit, ties together: (.., candidates)."""
    return np.asarray(found >= found.max(axis=-1, keepdims=True) - SAME)


def _ideal_point(scores: Array) -> Array:
    best = scores.max(axis=1, keepdims=True)
    span = best - scores.min(axis=1, keepdims=True)
    away = np.divide(best - scores, span, out=np.zeros_like(scores), where=span > SAME)
    return np.asarray(-np.sqrt((away**2).mean(axis=2)))


def _lexicographic(scores: Array, tolerance: float) -> Array:
    alive = np.ones(scores.shape[:2], bool)
    merit = np.zeros(scores.shape[:2])
    for kind in range(scores.shape[2]):
        best = np.where(alive, scores[:, :, kind], -np.inf).max(axis=1, keepdims=True)
        alive &= scores[:, :, kind] >= best - tolerance - SAME
        merit += alive
    return merit
