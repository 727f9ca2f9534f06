"""Scores of candidates on benchmarks, item by item where that is known, as arrays. Scores are in points, 0 to 100.

Items are the units of chance: several answers of one candidate to one item are averaged before they come here, so that
every comparison is clustered by item. Groups (the tasks of a benchmark that is a mean of means) are taken as fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meshtune.errors import Fault, InputError

Array = NDArray[np.float64]
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
        groups: the number of the group of each item; the score is the mean over groups of the mean over their items.
    """

    name: str
    title: str
    scores: Array
    errors: Array
    items: int | None = None
    answers: Array | None = None
    groups: NDArray[np.int64] | None = None


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
) -> Measure:
    """A benchmark from the share of right answers (0 to 1) of each candidate to each item.

    Args:
        answers: by candidate, by item. groups: of each item, for a mean of means.
        common: keep the items that all candidates have answered; otherwise a missing one is refused.

    Raises InputError where candidates were not asked the same items, or share none.
    """
    everything = dict.fromkeys(item for each in answers.values() for item in each)
    shared = [item for item in everything if all(item in each for each in answers.values())]
    if len(shared) < len(everything) and not common:
        raise InputError([Fault(text) for text in _lacking(title, answers, everything)])
    if not shared:
        raise InputError(f"{title}: there is no item that all candidates have answered")
    values = POINTS * np.array([[each[item] for item in shared] for each in answers.values()])
    names = [groups[item] if groups is not None else "" for item in shared]
    numbers = np.unique(names, return_inverse=True)[1].astype(np.int64)
    weights = item_weights(numbers)
    scores = values @ weights
    return Measure(name, title, scores, _errors(values, numbers), len(shared), values, numbers)


def of_scores(name: str, title: str, scores: Sequence[float], errors: Sequence[float], items: int | None) -> Measure:
    """A benchmark of which only scores and their standard errors are known, in points."""
    return Measure(name, title, np.array(scores, float), np.array(errors, float), items)


def item_weights(groups: NDArray[np.int64]) -> Array:
    """What each item weighs in the score; they add up to 1."""
    counts = np.bincount(groups)
    return np.asarray(1.0 / counts[groups] / len(counts))


def _errors(values: Array, groups: NDArray[np.int64]) -> Array:
    """Of a mean of group means, from each group's own variance."""
    count = int(groups.max()) + 1
    parts = [values[:, groups == group] for group in range(count)]
    return np.asarray(np.sqrt(sum(part.var(axis=1) / max(part.shape[1] - 1, 1) for part in parts)) / count)


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
