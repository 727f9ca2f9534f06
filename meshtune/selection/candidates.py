"""Candidates by their scores: who is Pareto-optimal, who is best at what, and statistics of the best few.

Scores are in points, 0 to 100, higher is better. Tables are compared only where they are of the same items.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from meshtune.errors import Fault, InputError
from meshtune.space import pareto as fronts


@dataclass(frozen=True)
class Column:
    """A score of a table.

    Attributes:
        name: such as `mmlu`, or `mmlu:probability` for what stands beside the verdict of `mmlu`. title: for people.
        items: that it is measured on, None where that is not known.
        measured: what was asked and how, in one line; tables are comparable where it is the same. "" is not known.
        chance: what guessing scores; None where that is not known.
        digits: behind the point.
    """

    name: str
    title: str
    items: int | None = None
    measured: str = ""
    chance: float | None = None
    digits: int = 2

    @property
    def verdict(self) -> bool:
        """Whether it is a benchmark's own score, which Pareto sets and statistics are made of."""
        return ":" not in self.name

    @property
    def higher_is_better(self) -> bool:
        """Whether that is known: a metric of the user, `metrics:<name>`, may be one to minimize."""
        return not self.name.startswith("metrics:")


@dataclass(frozen=True)
class Scored:
    """A candidate with its scores and their standard errors, by column.

    `rank` by the objective, from 1; None for what was not ranked, as the untuned model. `left`: the items that it had
    answered when it left a race; None: it answered all that were asked.
    """

    name: str
    rank: int | None
    scores: Mapping[str, float]
    errors: Mapping[str, float | None] = field(default_factory=dict)
    baseline: bool = False
    trial: int | None = None
    loss: float | None = None
    left: int | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Candidates of one search, called `label`. `protocol` is that of its scores, "" where it is not known."""

    label: str
    columns: tuple[Column, ...]
    rows: tuple[Scored, ...]
    protocol: str = ""

    @property
    def verdicts(self) -> tuple[Column, ...]:
        """The benchmarks' own scores."""
        return tuple(column for column in self.columns if column.verdict)

    @property
    def ranked(self) -> tuple[Scored, ...]:
        """Candidates that the search ranked, best first, but for those that left a race: these answered fewer items."""
        ranked = [row for row in self.rows if row.rank is not None and row.left is None]
        return tuple(sorted(ranked, key=lambda row: row.rank or 0))


@dataclass(frozen=True)
class Statistics:
    """Of one score over some candidates; `deviation` and `error` (of the mean) are None for a single one."""

    low: float
    high: float
    mean: float
    deviation: float | None
    error: float | None
    count: int


def pareto(rows: Sequence[Scored], columns: Sequence[Column]) -> set[str]:
    """Names of the candidates that no other one equals or exceeds in all scores and exceeds in one."""
    scores = np.array([[row.scores[column.name] for column in columns] for row in rows], dtype=float)
    on = fronts.pareto(scores.reshape(len(rows), len(columns)))
    return {row.name for row, optimal in zip(rows, on, strict=True) if optimal}


def highest(rows: Sequence[Scored], column: Column) -> float | None:
    """The best score as it is shown, which rounding may share; None where nobody has one, where all of several have the
    same, or where lower may be better.
    """
    known = [round(row.scores[column.name], column.digits) for row in rows if column.name in row.scores]
    if not column.higher_is_better or (len(known) > 1 and min(known) == max(known)):
        return None
    return max(known, default=None)


def statistics_of(rows: Sequence[Scored], column: Column) -> Statistics:
    """Of at least one candidate; the deviation is that of a sample."""
    values = [row.scores[column.name] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else None
    error = None if deviation is None else deviation / len(values) ** 0.5
    return Statistics(min(values), max(values), statistics.fmean(values), deviation, error, len(values))


def no_signal(table: ScoreTable, column: Column) -> bool:
    """Whether no candidate is above chance by more than two standard errors; False where chance is not known."""
    if column.chance is None:
        return False
    chance, name = column.chance, column.name
    return all(row.scores[name] - chance <= 2 * (row.errors.get(name) or 0.0) for row in table.rows)


def check_comparable(tables: Sequence[ScoreTable]) -> None:
    """Refuse tables of different protocols, benchmarks, sets or limits. Raises InputError with every difference.

    Each is compared with each: two that agree with a third one, which does not say something, may differ in it.
    """
    faults = list[Fault]()
    for first, other in itertools.combinations(tables, 2):
        mine = {column.name: column for column in first.verdicts}
        where = f"{first.label} and {other.label}"
        if first.protocol and other.protocol and first.protocol != other.protocol:
            what = (
                f"are scored by different protocols, `{first.protocol}` and `{other.protocol}`: score one of them again"
            )
            faults.append(Fault(f"{where} {what}"))
        theirs = {column.name: column for column in other.verdicts}
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs:
                lacking = other.label if name in mine else first.label
                faults.append(Fault(f"{lacking} has no score of {name}: score the same benchmarks, or leave it out"))
                continue
            one, two = mine[name], theirs[name]
            if None not in (one.items, two.items) and one.items != two.items:
                faults.append(Fault(f"{where} are scored on different items of {name}: {one.items} and {two.items}"))
            elif one.measured and two.measured and one.measured != two.measured:
                faults.append(Fault(f"{where} are scored in different ways on {name}: {one.measured}; {two.measured}"))
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
