"""Studies side by side: those that differ only in their seed are repeats of one setting, and make one group.

A group's curve is the mean over its studies of the best loss so far, with the t interval over seeds; its numbers come
from the status mappings. What differs between the groups gives them their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.recorded import flatten
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


@dataclass(frozen=True)
class Group:
    """Studies that differ only in their seed. `label`: what tells the group from the others."""

    label: str
    studies: tuple[Compared, ...]

    @property
    def seeds(self) -> int:
        """How many studies there are."""
        return len(self.studies)

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several."""
        return self.label if self.seeds == 1 else f"{self.label}, {self.seeds} seeds"

    @property
    def curve(self) -> list[tuple[int, Mean]]:
        """The best loss so far after 1, 2, .. trials, as long as every study has one."""
        every = zip(*(best_so_far(study.status["all"]) for study in self.studies), strict=False)
        points = list[tuple[int, Mean]]()
        for count, lows in enumerate(every, start=1):
            known = [low for low in lows if low is not None]
            if len(known) == len(lows):
                points.append((count, mean_interval(known)))
        return points

    def mean(self, read: Callable[[Status], float | None]) -> Mean | None:
        """The mean over the studies of a number; None where one lacks it."""
        values = [read(study.status) for study in self.studies]
        known = [value for value in values if value is not None]
        return mean_interval(known) if len(known) == len(values) else None


def grouped(studies: Sequence[Compared]) -> list[Group]:
    """The groups, in the order of their first studies."""
    members = dict[str, list[Compared]]()
    for study in studies:
        members.setdefault(_setting(study), []).append(study)
    found = list(members.values())
    labels = _labels([group[0] for group in found])
    return [Group(label, tuple(group)) for label, group in zip(labels, found, strict=True)]


def comparable(groups: Sequence[Group]) -> str | None:
    """Why the losses of these groups must not be compared, in a sentence; None: they may be."""
    first = groups[0].studies[0]
    for group in groups[1:]:
        other = group.studies[0]
        if other.data != first.data:
            return "These studies do not have the same data: their losses are of different rows."
        if other.fixed.get("model") != first.fixed.get("model"):
            return "These studies do not have the same base model: their losses may not mean the same."
        if _objective(other) != _objective(first):
            return "These studies do not have the same objective: their losses may not mean the same."
    return None


def _objective(study: Compared) -> Any:
    return study.fixed.get("objective")


def _setting(study: Compared) -> str:
    fixed = {key: value for key, value in study.fixed.items() if key not in SEEDED}
    return json.dumps([fixed, study.data], sort_keys=True)


def _labels(firsts: Sequence[Compared]) -> list[str]:
    """The sampler where it tells them apart, else the values that do where they are few, else the studies' names."""
    samplers = [str(study.status.get("sampler")) for study in firsts]
    if len(set(samplers)) == len(samplers):
        return samplers
    flat = [flatten({key: v for key, v in study.fixed.items() if key not in SEEDED}) for study in firsts]
    keys = sorted({key for one in flat for key in one if len({repr(other.get(key)) for other in flat}) > 1})
    values = [f"{keys[0]} {one.get(keys[0])}" for one in flat] if len(keys) == 1 else []
    if values and len(set(values)) == len(values):
        return values
    names = [study.name for study in firsts]
    return names if len(set(names)) == len(names) else [f"{name} ({n})" for n, name in enumerate(names, start=1)]
