"""Scores of candidates on benchmarks, item by item where that is known, as arrays. Scores are in points, 0 to 100.

Items are the units of chance: several answers of one candidate to one item are averaged before they come here, so that
every comparison is clustered by item. Groups (the tasks of a benchmark that is a mean of means) are taken as fixed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meshtune.errors import Fault, InputError

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
POINTS = 100.0
FEWEST_ITEMS = 20  # below which a benchmark counts for nothing


@dataclass(frozen=True)
class Measure:
    """One benchmark.

    Attributes:
        name, title: such as `mmlu` and `MMLU`.
        scores, errors: by candidate, in points; an error is not-a-number where it is not known.
        items: how many, None where that is not known.
        answers: points by candidate and item, None where only the scores are known: then nothing is paired.
            Not-a-number where a candidate that left a race was not asked; its score is `whole_scores`'s.
        groups: the number of the group of each item; the score is the mean over groups of the mean over their items.
        ids: what the items are called.
        by_errors: whether resamples of the scores alone follow the errors, though the items are known: the scores may
            be no shares of right answers.
    """

    name: str
    title: str
    scores: Array
    errors: Array
    items: int | None = None
    answers: Array | None = None
    groups: Numbers | None = None
    ids: tuple[str, ...] = ()
    by_errors: bool = False


@dataclass(frozen=True)
class Measured:
    """Candidates, and the benchmarks that all of them were scored on."""

    names: tuple[str, ...]
    measures: tuple[Measure, ...]

    @property
    def scores(self) -> Array:
        """Points by candidate and benchmark."""
        return np.stack([measure.scores for measure in self.measures], axis=1)

    @property
    def paired(self) -> bool:
        """Whether all benchmarks are known item by item."""
        return all(measure.answers is not None for measure in self.measures)

    def only(self, benchmarks: Sequence[str]) -> Measured:
        """The same with these benchmarks, in their order."""
        return replace(self, measures=tuple(m for m in self.measures if m.name in benchmarks))


def of_answers(
    name: str,
    title: str,
    answers: Mapping[str, Mapping[str, float]],
    *,
    groups: Mapping[str, str] | None = None,
    common: bool = False,
    partial: Collection[str] = (),
) -> Measure:
    """A benchmark from the share of right answers (0 to 1) of each candidate to each item.

    Args:
        answers: by candidate, by item. groups: of each item, for a mean of means.
        common: keep the items that all candidates have answered; otherwise a missing one is refused.
        partial: candidates that may lack items, since they left a race.

    Raises InputError where candidates were not asked the same items, or share none.
    """
    whole = {key: each for key, each in answers.items() if key not in partial}
    everything = dict.fromkeys(item for each in whole.values() for item in each)
    shared = [item for item in everything if all(item in each for each in whole.values())]
    if len(shared) < len(everything) and not common:
        raise InputError([Fault(text) for text in _lacking(title, whole, everything)])
    if not shared or any(each.keys().isdisjoint(shared) for each in answers.values()):
        raise InputError(f"{title}: there is no item that all candidates have answered")
    values = POINTS * np.array([[each.get(item, math.nan) for item in shared] for each in answers.values()])
    names = [groups[item] if groups is not None else "" for item in shared]
    numbers = np.unique(names, return_inverse=True)[1].astype(np.int64)
    scores = whole_scores(values, numbers)
    return Measure(name, title, scores, errors(values, numbers), len(shared), values, numbers, tuple(shared))


def of_scores(
    name: str,
    title: str,
    scores: Sequence[float],
    errors: Sequence[float],
    items: int | None,
    *,
    by_errors: bool = False,
) -> Measure:
    """A benchmark of which only scores and their standard errors are known, in points."""
    return Measure(name, title, np.array(scores, float), np.array(errors, float), items, by_errors=by_errors)


def whole_scores(values: Array, groups: Numbers) -> Array:
    """Scores on all items; of who was not asked some, by how far it was from the others on those that it was asked."""
    there = ~np.isnan(values)
    full = there.all(axis=1)
    found = np.empty(len(values))
    found[full] = values[full] @ item_weights(groups)
    for row in np.flatnonzero(~full):
        away = values[row, there[row]] - values[full][:, there[row]].mean(axis=0)
        found[row] = found[full].mean() + away @ item_weights(dense(groups[there[row]]))
    return np.clip(found, 0, POINTS)


def dense(groups: Numbers) -> Numbers:
    """Groups by numbers without a gap."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def item_weights(groups: Numbers) -> Array:
    """What each item weighs in the score; they add up to 1."""
    counts = np.bincount(groups)
    return np.asarray(1.0 / counts[groups] / len(counts))


def strata(groups: Numbers) -> Numbers:
    """Groups to tell noise from, without a gap: one item alone has none, so that such groups are taken together.

    What they differ by is then taken for noise, which overstates it. Where only one group has one item, the smallest of
    the others joins it.
    """
    sizes = np.bincount(groups)
    alone = sizes == 1
    if alone.sum() == 1:
        alone[np.where(alone, sizes.max() + 1, sizes).argmin()] = True
    return dense(np.where(alone[groups], -1, groups))


def errors(values: Array, groups: Numbers) -> Array:
    """Standard errors of means of group means, by candidate, from each stratum's own variance."""
    return np.array([_error(row[~np.isnan(row)], dense(groups[~np.isnan(row)])) for row in values])


def _error(values: Array, groups: Numbers) -> float:
    weights, places = item_weights(groups), strata(groups)
    variance = 0.0
    for place in range(int(places.max()) + 1):
        at = places == place
        if at.sum() > 1:
            variance += float((weights[at] ** 2).sum() * values[at].var(ddof=1))
    return math.sqrt(variance)


def _lacking(title: str, answers: Mapping[str, Mapping[str, float]], items: Mapping[str, None]) -> list[str]:
    found = []
    for name, each in answers.items():
        missing = [item for item in items if item not in each]
        if missing:
            what = (
                f"{title}: {name} has no answer to {len(missing):,} of the {len(items):,} items, such as {missing[0]}"
            )
            found.append(f"{what}: `meshtune evaluate` asks it, or compare on the common items (`--common-items`)")
    return found
