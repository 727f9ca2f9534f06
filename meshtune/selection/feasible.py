"""Which candidates keep the constraints of their study, and how sure that is.

A candidate that violates a constraint, by its point or as the search measured it, cannot be chosen. How likely a kept
one holds beyond the items that were asked is told for benchmarks, whose scores are noisy: from the paired difference
with the reference on the same items, on those that `evaluate` scored where there are any, since the search chose by the
items that guided it. Other quantities are taken as they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from meshtune.objectives import measurement_files
from meshtune.record.log import Record
from meshtune.selection.measured import POINTS, Array, Measured, item_weights
from meshtune.space.goals import BENCHMARKS, GOLD, Constraint


@dataclass(frozen=True)
class Chance:
    """A candidate and a constraint.

    Attributes:
        violation: as the search measured it, at most 0 where it is kept. chance: that it is kept on other items of the
            kind too; None where it is no mean over items. items: that this rests on. fresh: whether they are others
            than those that guided the search.
    """

    constraint: str
    violation: float
    chance: float | None = None
    items: int | None = None
    fresh: bool = False


def chances(record: Record, folder: Path, measured: Measured, trials: Mapping[str, int]) -> dict[str, list[Chance]]:
    """By candidate the measured constraints of the study, and those it violates that are known before training.

    Args:
        folder: the study's. measured: the candidates' scores. trials: the number of each candidate that is a trial.
    """
    names = {"untuned": "untuned", "baseline": "baseline"}
    if record.baseline is not None:
        names["baseline"] = next((n for n, t in trials.items() if t == record.baseline.number), "baseline")
    found: dict[str, list[Chance]] = {}
    for name, number in trials.items():
        violated = violations(record, number)
        found[name] = [
            _chance(each, violated[each.text], folder, measured, name, number, names, record)
            for each in record.guidance.constraints
            if each.text in violated and (not each.known or violated[each.text] > 0)
        ]
    return found


def violations(record: Record, number: int) -> dict[str, float]:
    """How far a complete trial is beyond each constraint, by its text: by its point, and as the search measured it."""
    trial = record.trials[number]
    known = {
        each.text: each.violation(trial.quantities[each.quantity], each.offset)
        for each in record.guidance.known
        if each.quantity in trial.quantities
    }
    return {**known, **trial.violations}


def barred(found: Mapping[str, Sequence[Chance]]) -> tuple[str, ...]:
    """Candidates that violate a constraint."""
    return tuple(name for name, each in found.items() if any(one.violation > 0 for one in each))


def notes(found: Mapping[str, Sequence[Chance]], chosen: str | None) -> list[str]:
    """What is said of it: who cannot be chosen, and how sure it is that the chosen one keeps the constraints."""
    said = []
    for name in barred(found):
        broken = ", ".join(f"`{one.constraint}`" for one in found[name] if one.violation > 0)
        said.append(f"{name} violates {broken} and cannot be chosen.")
    for one in found.get(chosen or "", ()):
        if one.chance is None:
            said.append(f"{chosen} keeps `{one.constraint}` as it was measured.")
            continue
        where = "that did not guide the search" if one.fresh else "that guided the search, by which it was chosen"
        said.append(
            f"{chosen} keeps `{one.constraint}` with a probability of {one.chance:.2f}, by its differences on"
            f" {one.items} items {where}."
        )
    return said


def _chance(
    constraint: Constraint,
    violation: float,
    folder: Path,
    measured: Measured,
    name: str,
    number: int,
    names: Mapping[str, str],
    record: Record,
) -> Chance:
    other = None if constraint.reference is None else names[constraint.reference]
    fresh = _of_scores(constraint, measured, name, other)
    guiding = None if fresh is not None else _of_measurements(constraint, folder, number, record)
    found = fresh or guiding
    if found is None:
        return Chance(constraint.text, violation)
    margins, weights = found
    chance = kept(margins, weights, constraint.offset, at_most=constraint.relation == "<=")
    return Chance(constraint.text, violation, chance, len(margins), fresh is not None)


def kept(margins: Array, weights: Array, limit: float, *, at_most: bool) -> float:
    """The probability that a mean is at most, or at least, a limit: a normal one, of values between -1 and 1.

    The standard error is that of the mean over items, and not below that of one discordant item each way (Bonett and
    Price 2012): a few items that all agree do not make sure.
    """
    mean = float(margins @ weights)
    effective = 1 / float((weights**2).sum())
    error = math.sqrt(float((weights**2 * (margins - mean) ** 2).sum()) * effective / max(effective - 1, 1))
    error = math.hypot(error, math.sqrt(2) / (effective + 2))
    z = (limit - mean) / error
    return float(ndtr(z if at_most else -z))


def _of_scores(constraint: Constraint, measured: Measured, name: str, other: str | None) -> tuple[Array, Array] | None:
    """By item of the scored benchmark, the candidate minus the factor times the reference; and weights."""
    measure = next((one for one in measured.measures if one.name == constraint.quantity), None)
    if measure is None or measure.answers is None or measure.groups is None:
        return None
    if name not in measured.names or (other is not None and other not in measured.names):
        return None
    values = measure.answers / POINTS
    margins = values[measured.names.index(name)]
    if other is not None:
        margins = margins - constraint.factor * values[measured.names.index(other)]
    return (margins, item_weights(measure.groups)) if np.isfinite(margins).all() else None


def _of_measurements(constraint: Constraint, folder: Path, number: int, record: Record) -> tuple[Array, Array] | None:
    """The same by the items that guided the search; None for a metric, whose values may be of any size."""
    if constraint.quantity.removesuffix(GOLD) not in BENCHMARKS:
        return None
    mine = measurement_files.read(folder, number)
    own = None if mine is None else mine.items.get(constraint.quantity)
    if own is None:
        return None
    margins, weights = np.array(own.values), np.array(own.weights)
    if constraint.reference is not None:
        baseline = record.baseline
        what = baseline.number if constraint.reference == "baseline" and baseline is not None else constraint.reference
        theirs = measurement_files.read(folder, what)
        against = None if theirs is None else theirs.items.get(constraint.quantity)
        if against is None or against.names != own.names:
            return None
        margins = margins - constraint.factor * np.array(against.values)
    return margins, weights
