"""`meshtune evaluate --race`: candidates are asked in rounds, and those that cannot be the best any more are left out.

All that is decided depends on stored answers, so that a race that was killed, or is run again, comes to the same end.
The untuned model and the baseline are what the chosen one will be compared with: they are asked as long as it lasts.
Who violates a constraint of the study cannot be chosen, and is not asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from meshtune.errors import InputError
from meshtune.finalists.ask import BenchmarkScorer, Report
from meshtune.finalists.candidates import ListedCandidate
from meshtune.selection import feasible, racing
from meshtune.selection.measured import POINTS
from meshtune.selection.rules import Rule, RuleName
from meshtune.system.text import counted

if TYPE_CHECKING:
    from meshtune.evaluation.adapters import Candidate
    from meshtune.evaluation.benchmarks.items import Benchmark

Only = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class RaceExit:
    """When a candidate left: after which round, from 1; how many items it had answered by benchmark; its chance."""

    round: int
    items: Mapping[str, int]
    chance: float


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes:
        rule, error, seed: as it was run. rounds: that it took.
        items: by benchmark, the numbers of the items that those still in it have answered, in the order of the race.
        ids: what these items are called. total: how many there are of each benchmark.
        left: by name, who left and when. first: who may be the best, the likeliest first.
        barred: by name, the constraints of the study for which it cannot win.
    """

    rule: RuleName
    error: float
    seed: int
    rounds: int
    items: Only
    ids: Mapping[str, Sequence[str]]
    total: Mapping[str, int]
    left: Mapping[str, RaceExit] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    barred: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, name: str) -> Only:
        """The items that a candidate has answered."""
        gone = self.left.get(name)
        return self.items if gone is None else {key: numbers[: gone.items[key]] for key, numbers in self.items.items()}

    def note_of(self, benchmark: str) -> str:
        """Which items the scores of those that did not leave are of, for tables."""
        asked, total = len(self.items[benchmark]), self.total[benchmark]
        return "" if asked == total else f"the first {asked:,} of these in a race with seed {self.seed}"

    @property
    def sentence(self) -> str:
        """How it ended."""
        most = sum(self.total.values())
        asked = sum(map(len, self.items.values()))
        gone = [f"{name} after {sum(each.items.values()):,}" for name, each in self.left.items()]
        who = f"left: {', '.join(gone)}; " if gone else "nobody left; "
        who += f"cannot win, by the study's constraints: {', '.join(self.barred)}; " if self.barred else ""
        missed = 100 * sum(each.chance for each in self.left.values())
        return (
            f"race by {self.rule} in {counted(self.rounds, 'round')}, {asked:,} of {most:,} items: {who}the predicted"
            f" chance that scoring everybody would choose one that left is {missed:.1f} %"
            f" (at most {100 * self.error:g} %)"
        )

    @property
    def values(self) -> dict[str, Any]:
        """How it went, as plain values; of the items, how many."""
        left = {name: dataclasses.asdict(gone) for name, gone in self.left.items()}
        values = {key: value for key, value in dataclasses.asdict(self).items() if key != "ids"}
        items = {name: len(numbers) for name, numbers in self.items.items()}
        return {**values, "items": items, "total": dict(self.total), "left": left}


def cannot_win(listed: Sequence[ListedCandidate]) -> dict[str, tuple[str, ...]]:
    """Who cannot be chosen, by name with the constraints that it violates."""
    found = {}
    for one in listed:
        if one.chosen is not None and one.chosen.trial is not None:
            beyond_by = feasible.violations(one.chosen.record, one.chosen.trial)
            found[one.name] = tuple(text for text, beyond in beyond_by.items() if beyond > 0)
    return {name: texts for name, texts in found.items() if texts}


def admitted(
    listed: Sequence[ListedCandidate], barred: Mapping[str, Sequence[str]], report: Report
) -> list[ListedCandidate]:
    """Who is asked in a race: all but those in `barred`, of which it is said. A baseline is asked all the same."""
    for one in listed:
        if one.name in barred:
            then = "asked as what the others are compared with" if one.baseline else "not asked"
            which = ", ".join(f"`{text}`" for text in barred[one.name])
            report(f"{one.name} violates {which}: it cannot win, and is {then}")
    return [one for one in listed if one.baseline or one.name not in barred]


def run(
    asking: BenchmarkScorer,
    listed: Sequence[ListedCandidate],
    asked: Sequence[Candidate],
    rule: Rule,
    report: Report,
    barred: Mapping[str, Sequence[str]],
) -> Race:
    """Race the ranked candidates that are not in `barred` to the end: all items are answered, or one candidate is left.

    Raises InputError where there is no race to be run, and what asking raises.
    """
    seed = asking.how.seed
    if rule.name == "validation_loss":
        raise InputError("a race by validation_loss is none: the losses are known. Leave `--race` out")
    entrants = [number for number, one in enumerate(listed) if one.rank is not None and one.name not in barred]
    if len(entrants) < 2:
        kept = " that keep the constraints" if barred else ""
        raise InputError(f"a race needs two ranked candidates{kept} at least: score more trials, or leave `--race` out")
    names = {one: listed[one].name for one in entrants}
    orders = {one.name: racing.order(one.name, _groups(one), seed) for one in asking.benchmarks}
    steps = {one.name: racing.rounds(len(one.items), len(set(_groups(one)))) for one in asking.benchmarks}
    total = {name: len(order) for name, order in orders.items()}
    able, left, spent = list(range(len(entrants))), dict[str, RaceExit](), 0.0
    for step in range(max(map(len, steps.values()))):
        counts = {name: each[min(step, len(each) - 1)] for name, each in steps.items()}
        items = {name: orders[name][:count] for name, count in counts.items()}
        ids = {one.name: [one.items[number].id for number in items[one.name]] for one in asking.benchmarks}
        race = Race(rule.name, racing.ERROR, seed, step + 1, items, ids, total, dict(left))
        going = [number for number, one in enumerate(listed) if one.name not in left]
        asking.ask([asked[number] for number in going], items)
        fields = [
            _field(one, asking, [asked[n] for n in entrants], race, list(names.values())) for one in asking.benchmarks
        ]
        found = racing.chances(fields, rule, seed=seed + step)
        whole = counts == total  # then nobody is asked less for leaving
        for number in [] if whole else racing.leaving(found, able, spent):
            chance = racing.at_most(float(found[number]))
            spent += chance
            able.remove(number)
            who = listed[entrants[number]]
            if not who.baseline:
                left[who.name] = RaceExit(step + 1, counts, round(chance, 6))
                report(f"{who.name} leaves the race after {sum(counts.values()):,} of {sum(total.values()):,} items")
        if len(able) == 1:
            break
    ahead = sorted(able, key=lambda number: -float(found[number]))
    first = tuple(names[entrants[number]] for number in ahead)
    return dataclasses.replace(race, left=left, first=first, barred=barred)


def _groups(benchmark: Benchmark) -> list[str]:
    """The group of each item that its score is a mean of; one where it is a mean over items."""
    return [item.group if benchmark.average == "macro" else "" for item in benchmark.items]


def _field(
    benchmark: Benchmark, asking: BenchmarkScorer, asked: Sequence[Candidate], race: Race, names: Sequence[str]
) -> racing.Field:
    answers = np.full((len(asked), len(benchmark.items)), np.nan)
    for row, (candidate, name) in enumerate(zip(asked, names, strict=True)):
        shares = asking.shares(candidate, benchmark.name)
        for number in race.of(name)[benchmark.name]:
            answers[row, number] = POINTS * shares[benchmark.items[number].id]
    groups = np.unique(_groups(benchmark), return_inverse=True)[1].astype(np.int64)
    return racing.Field(benchmark.name, answers, groups, POINTS * benchmark.guessed)
