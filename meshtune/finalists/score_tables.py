"""Results of candidates as the tables of `evaluate`: made, as the texts of files, and as plain values."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshtune.finalists.candidates import ListedCandidate
from meshtune.report import benchmark_tables
from meshtune.selection.candidates import Column, Scored, ScoreTable, no_signal, pareto, statistics_of
from meshtune.selection.statistics import Mean

if TYPE_CHECKING:
    from meshtune.evaluation.benchmarks.items import Benchmark
    from meshtune.evaluation.run import AnswerSettings
    from meshtune.evaluation.scoring import Scores

POINTS = 100.0


def columns(benchmark: Benchmark, how: AnswerSettings, results: Sequence[Scores], part: str = "") -> list[Column]:
    """The columns of a benchmark: its verdict, further scores, and the likelihood of right answers.

    `part`: which of its items they are of, where that is not all.
    """
    from meshtune.evaluation.benchmarks.items import PROBABILITY

    first = results[0]
    asked = how.of(benchmark)
    whole = f"{benchmark.set_name}; {part}" if part else benchmark.set_name
    title = f"{benchmark.title} pass@1" if asked["samples"] > 1 else benchmark.title
    found = [Column(benchmark.name, title, first.items, f"{whole} {measured(asked)}", POINTS * first.chance)]
    found += [Column(f"{benchmark.name}:{name}", f"{benchmark.title} {name}") for name in first.others]
    if any(result.likelihood is not None for result in results):
        shown = "P(right letter)" if benchmark.likelihood == PROBABILITY else "nats a byte"
        digits = 2 if benchmark.likelihood == PROBABILITY else 4
        found.append(Column(f"{benchmark.name}:likelihood", f"{benchmark.title} {shown}", digits=digits))
    return found


def measured(asked: Mapping[str, Any]) -> str:
    """The end of a column's line on how it was measured, from what a file of answers says about that."""
    greedy = asked["temperature"] == 0
    decoding = "greedy" if greedy else f"temperature {asked['temperature']:g}, seed {asked['seed']}"
    samples = f", {asked['samples']} samples" if asked["samples"] > 1 else ""
    return f"({asked['digest']}), {decoding}{samples}"


def table(
    label: str,
    protocol: str,
    columns: Sequence[Column],
    listed: Sequence[ListedCandidate],
    results: Mapping[str, Mapping[str, Scores]],
    means: Mapping[str, Mapping[str, Mean]],
    left: Mapping[str, int],
) -> ScoreTable:
    """The candidates with their scores in points; likelihoods a byte in nats, and means of the user's metrics.

    Likelihoods and means that are no finite numbers are left out.
    `left`: the items that those had answered who left a race.
    """
    rows = []
    for one in listed:
        numbers = {column.name: _number(results[one.name], means.get(one.name, {}), column) for column in columns}
        known = {name: number for name, number in numbers.items() if number is not None}
        outcome = one.chosen.outcome if one.chosen is not None else None
        rows.append(
            Scored(
                one.name,
                one.rank,
                {name: value for name, (value, _) in known.items()},
                {name: error for name, (_, error) in known.items()},
                baseline=one.baseline,
                trial=one.chosen.trial if one.chosen is not None else None,
                loss=outcome.loss if outcome is not None else None,
                left=left.get(one.name),
            )
        )
    return ScoreTable(label, tuple(columns), tuple(rows), protocol)


def as_files(tables: Sequence[ScoreTable], best: int, more: Sequence[str] = ()) -> dict[str, str]:
    """`candidates` (of several tables one each, `candidates-<label>`) and `statistics`, as CSV, Markdown and LaTeX."""
    texts, shown = dict[str, str](), {"statistics": benchmark_tables.statistics(tables, best)}
    texts["statistics.csv"] = benchmark_tables.plain_csv(shown["statistics"])
    for name, made in zip(_names(tables), tables, strict=True):
        shown[name] = benchmark_tables.candidates(made, more)
        texts[f"{name}.csv"] = benchmark_tables.as_csv(made)
    for name, one in shown.items():
        texts |= {f"{name}.md": benchmark_tables.markdown(one), f"{name}.tex": benchmark_tables.latex(one)}
    return texts


def notes(results: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """What is to be known of the scores besides: prompts that did not fit. It is the same for all candidates."""
    found = []
    for name in next(iter(results.values()), ()):
        most = max((of[name] for of in results.values()), key=lambda result: result.items)
        if most.too_long:
            what = "prompts do not fit the model even without shots, and count as wrong"
            found.append(f"{name}: {most.too_long:,} of {most.items:,} {what}.")
    return found


def as_json(made: ScoreTable) -> dict[str, Any]:
    """A table as plain values."""
    optimal = pareto(made.ranked, made.verdicts)
    return {
        "study": made.label,
        "protocol": made.protocol,
        "benchmarks": [
            {**dataclasses.asdict(column), "signal": None if column.chance is None else not no_signal(made, column)}
            for column in made.columns
        ],
        "candidates": [{**dataclasses.asdict(row), "pareto": row.name in optimal} for row in made.rows],
    }


def statistics_as_json(tables: Sequence[ScoreTable], best: int) -> list[dict[str, Any]]:
    """Statistics of the best few of each table, by benchmark."""
    found = []
    for made in tables:
        rows = [row for row in made.ranked if row.rank is not None and row.rank <= best]
        for column in made.verdicts if rows else ():
            numbers = dataclasses.asdict(statistics_of(rows, column))
            found.append({"study": made.label, "benchmark": column.name, **numbers})
    return found


def _names(tables: Sequence[ScoreTable]) -> list[str]:
    """Of their files, each its own also where capitals do not count: of labels that become one, later are numbered."""
    if len(tables) == 1:
        return ["candidates"]
    found = list[str]()
    for made in tables:
        label = re.sub(r"[^\w.-]+", "-", made.label).strip("-")
        name = f"candidates-{label}"
        taken = {other.casefold() for other in found}
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        found.append(next(one for one in itertools.chain([name], numbered) if one.casefold() not in taken))
    return found


def _number(
    results: Mapping[str, Scores], means: Mapping[str, Mean], column: Column
) -> tuple[float, float | None] | None:
    """What a candidate has in a column with its standard error; None where it has none, or no finite number."""
    value: float
    error: float | None
    if (mean := means.get(column.name)) is not None:
        value, error = mean.mean, mean.error
    else:
        name, _, part = column.name.partition(":")
        result = results[name]
        score = result.likelihood if part == "likelihood" else result.others[part] if part else result.verdict
        if score is None:
            return None
        scale = 1.0 if part == "likelihood" and column.digits != 2 else POINTS  # nats stay as they are
        value, error = scale * score.value, None if score.error is None else scale * score.error
    if not column.verdict and not math.isfinite(value):
        return None
    return value, error if error is not None and math.isfinite(error) else None
