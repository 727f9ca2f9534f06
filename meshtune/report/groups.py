"""Studies side by side: those that differ only in their seed are repeats of one setting, and make one group.

A group's curve is the mean over its seeds of the best loss so far, with the t interval over seeds; its numbers come
from the status mappings. Studies of one seed are not independent: their mean counts once. What differs between the
groups gives them their names, in which no absolute path stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.record.trials import flatten
from meshtune.report.public import hidden
from meshtune.report.trials import Status, best_so_far
from meshtune.selection.statistics import Mean, mean_interval

SEEDED = ("seed", "data")  # the rows are split by the seed: their fingerprint follows it


@dataclass(frozen=True)
class Compared:
    """One study: its name for people, its status with all trials, its fixed keys, its `data` section (None: none)."""

    name: str
    status: Status
    fixed: Mapping[str, Any]
    data: Mapping[str, Any] | None

    def same_rows(self, other: Compared) -> bool:
        """Whether both have the same data. Under one seed their fingerprints tell, wherever the files lie; else the
        sections do."""
        if self.fixed.get("seed") == other.fixed.get("seed"):
            return bool(self.fixed.get("data") == other.fixed.get("data"))
        return self.data == other.data


@dataclass(frozen=True)
class Group:
    """Studies that differ only in their seed. `label`: what tells the group from the others."""

    label: str
    studies: tuple[Compared, ...]

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self._by_seed)

    @property
    def count(self) -> str:
        """The number of seeds, and that of the studies where there are more of them."""
        studies = len(self.studies)
        return str(self.seeds) if studies == self.seeds else f"{self.seeds} ({studies} studies)"

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several, and that of studies where some repeat one."""
        seeds, studies = self.seeds, len(self.studies)
        if studies == seeds:
            return self.label if seeds == 1 else f"{self.label}, {seeds} seeds"
        return f"{self.label}, {studies} studies of {'one seed' if seeds == 1 else f'{seeds} seeds'}"

    @property
    def curve(self) -> list[tuple[int, Mean]]:
        """The best loss so far after 1, 2, .. trials, as long as every study has one."""
        every = zip(*(best_so_far(study.status["all"]) for study in self.studies), strict=False)
        points = list[tuple[int, Mean]]()
        for count, lows in enumerate(every, start=1):
            if (mean := self._over_seeds(lows)) is not None:
                points.append((count, mean))
        return points

    def mean(self, read: Callable[[Status], float | None]) -> Mean | None:
        """The mean over the seeds of a number; None where a study lacks it."""
        return self._over_seeds([read(study.status) for study in self.studies])

    @property
    def _by_seed(self) -> list[list[int]]:
        """Places of the studies, by seed."""
        places = dict[Any, list[int]]()
        for place, study in enumerate(self.studies):
            places.setdefault(study.fixed.get("seed"), []).append(place)
        return list(places.values())

    def _over_seeds(self, values: Sequence[float | None]) -> Mean | None:
        """The mean over the seeds of a value a study; None where one is missing."""
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return mean_interval([math.fsum(known[n] for n in places) / len(places) for places in self._by_seed])


def grouped(studies: Sequence[Compared]) -> list[Group]:
    """The groups, in the order of their first studies."""
    members = dict[str, list[Compared]]()
    for study, rows in zip(studies, _rows(studies), strict=True):
        members.setdefault(_setting(study, rows), []).append(study)
    found = list(members.values())
    labels = _labels([group[0] for group in found])
    return [Group(label, tuple(group)) for label, group in zip(labels, found, strict=True)]


def comparable(groups: Sequence[Group]) -> str | None:
    """Why the losses of these groups must not be compared, in a sentence; None: they may be."""
    if any(_rows([study for group in groups for study in group.studies])):
        return "These studies do not have the same data: their losses are of different rows."
    first = groups[0].studies[0]
    for group in groups[1:]:
        other = group.studies[0]
        if other.fixed.get("model") != first.fixed.get("model"):
            return "These studies do not have the same base model: their losses may not mean the same."
        if _objective(other) != _objective(first):
            return "These studies do not have the same objective: their losses may not mean the same."
    return None


def _objective(study: Compared) -> Any:
    return study.fixed.get("objective")


def _rows(studies: Sequence[Compared]) -> list[int]:
    """For each study the place of the first one of those that have the same data."""
    firsts = list[int]()
    for place, study in enumerate(studies):
        same = (first for first, other in zip(firsts, studies, strict=False) if study.same_rows(other))
        firsts.append(next(same, place))
    return firsts


def _setting(study: Compared, rows: int) -> str:
    fixed = {key: value for key, value in study.fixed.items() if key not in SEEDED}
    return json.dumps([fixed, rows], sort_keys=True)


def _labels(firsts: Sequence[Compared]) -> list[str]:
    """The sampler where it tells them apart, else the values that do where they are few, else the studies' names."""
    samplers = [str(hidden(study.status.get("sampler"))) for study in firsts]
    if len(set(samplers)) == len(samplers):
        return samplers
    flat = [flatten({key: v for key, v in study.fixed.items() if key not in SEEDED}) for study in firsts]
    keys = sorted({key for one in flat for key in one if len({repr(other.get(key)) for other in flat}) > 1})
    values = [f"{keys[0]} {hidden(one.get(keys[0]))}" for one in flat] if len(keys) == 1 else []
    if values and len(set(values)) == len(values):
        return values
    names = [study.name for study in firsts]
    return names if len(set(names)) == len(names) else [f"{name} ({n})" for n, name in enumerate(names, start=1)]
