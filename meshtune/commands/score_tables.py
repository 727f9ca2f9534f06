"""Results of candidates as the tables of `evaluate`: made, written as files, printed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtune import whole_file
from meshtune.commands.candidates import Listed
from meshtune.report import benchmark_tables
from meshtune.report.benchmark_tables import TextTable
from meshtune.selection.candidates import Column, Scored, ScoreTable, no_signal, pareto, statistics_of
from meshtune.selection.statistics import Mean

if TYPE_CHECKING:
    from meshtune.commands.evaluate_race import Race
    from meshtune.config_evaluation import EvaluationConfig
    from meshtune.evaluation.items import Benchmark
    from meshtune.evaluation.run import How
    from meshtune.evaluation.scoring import Result, Score

POINTS = 100.0


def columns(benchmark: Benchmark, how: How, results: Sequence[Result], part: str = "") -> list[Column]:
    """The columns of a benchmark: its verdict, further scores, and the likelihood of right answers.

    `part`: which of its items they are of, where that is not all.
    """
    from meshtune.evaluation.items import PROBABILITY

    first = results[0]
    decoding = "greedy" if how.temperature == 0 else f"temperature {how.temperature:g}, seed {how.seed}"
    samples = how.samples_of(benchmark)
    whole = f"{benchmark.set_name}; {part}" if part else benchmark.set_name
    told = f"{whole} ({benchmark.digest}), {decoding}" + (f", {samples} samples" if samples > 1 else "")
    title = f"{benchmark.title} pass@1" if samples > 1 else benchmark.title
    found = [Column(benchmark.name, title, first.items, told, POINTS * first.chance)]
    found += [Column(f"{benchmark.name}:{name}", f"{benchmark.title} {name}") for name in first.others]
    if any(result.likelihood is not None for result in results):
        shown = "P(right letter)" if benchmark.likelihood == PROBABILITY else "nats a byte"
        digits = 2 if benchmark.likelihood == PROBABILITY else 4
        found.append(Column(f"{benchmark.name}:likelihood", f"{benchmark.title} {shown}", digits=digits))
    return found


def table(
    label: str,
    protocol: str,
    columns: Sequence[Column],
    listed: Sequence[Listed],
    results: Mapping[str, Mapping[str, Result]],
    means: Mapping[str, Mapping[str, Mean]],
    left: Mapping[str, int] | None = None,
) -> ScoreTable:
    """The candidates with their scores in points; likelihoods a byte in nats, and means of the user's metrics.

    `left`: the items that those had answered who left a race.
    """
    rows = []
    for one in listed:
        own = means.get(one.name, {})
        scores: dict[str, Score | Mean | None] = {
            column.name: own.get(column.name) or _score(results[one.name], column) for column in columns
        }
        outcome = one.chosen.outcome if one.chosen is not None else None
        rows.append(
            Scored(
                one.name,
                one.rank,
                {name: _value(score) for name, score in scores.items() if score is not None},
                {name: _error(score) for name, score in scores.items() if score is not None},
                baseline=one.baseline,
                trial=one.chosen.trial if one.chosen is not None else None,
                loss=outcome.loss if outcome is not None else None,
                left=(left or {}).get(one.name),
            )
        )
    return ScoreTable(label, tuple(columns), tuple(rows), protocol)


def write(
    folder: Path,
    made: ScoreTable,
    best: int,
    results: Mapping[str, Mapping[str, Result]],
    settings: EvaluationConfig,
    race: Race | None,
) -> None:
    """`candidates` and `statistics` as CSV, Markdown and LaTeX, and `scores.json`. Raises StorageError."""
    shown = {"candidates": benchmark_tables.candidates(made), "statistics": benchmark_tables.statistics([made], best)}
    texts = {"candidates.csv": benchmark_tables.as_csv(made)}
    texts["statistics.csv"] = benchmark_tables.plain_csv(shown["statistics"])
    for name, one in shown.items():
        texts |= {f"{name}.md": benchmark_tables.markdown(one), f"{name}.tex": benchmark_tables.latex(one)}
    plain = {name: {key: dataclasses.asdict(value) for key, value in of.items()} for name, of in results.items()}
    told = {"protocol": made.protocol, "best": best, "settings": settings.model_dump(mode="json")}
    told |= {"race": None if race is None else {**race.told, "ids": race.ids}, "results": plain}
    texts["scores.json"] = json.dumps(told, indent=2) + "\n"
    whole_file.write_all(folder, texts, "the tables")


def show(tables: Sequence[ScoreTable], best: int, console: Console) -> None:
    """The tables on a terminal."""
    for made in tables:
        _print(benchmark_tables.candidates(made), console)
    _print(benchmark_tables.statistics(tables, best), console)


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


def _score(results: Mapping[str, Result], column: Column) -> Score | None:
    name, _, part = column.name.partition(":")
    result = results[name]
    if not part:
        return _points(result.verdict)
    if part != "likelihood":
        return _points(result.others[part])
    if result.likelihood is None:
        return None
    return _points(result.likelihood) if column.digits == 2 else result.likelihood


def _value(score: Score | Mean) -> float:
    return score.mean if isinstance(score, Mean) else score.value


def _error(score: Score | Mean) -> float | None:
    return None if score.error is None or math.isnan(score.error) else score.error


def _points(score: Score) -> Score:
    error = None if score.error is None else POINTS * score.error
    return dataclasses.replace(score, value=POINTS * score.value, error=error)


def _print(shown: TextTable, console: Console) -> None:
    made = Table(title=shown.title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, title in enumerate(shown.head):
        made.add_column(Text(title), justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in shown.rows:
        made.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row))
    console.print(made)
    for note in shown.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
