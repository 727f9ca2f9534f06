"""Results of candidates as the tables of `evaluate`: made, written as files, printed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtune.finalists.candidates import Listed
from meshtune.report import benchmark_tables
from meshtune.report.benchmark_tables import TextTable
from meshtune.selection.candidates import Column, Scored, ScoreTable, no_signal, pareto, statistics_of
from meshtune.selection.statistics import Mean
from meshtune.system import whole_file

if TYPE_CHECKING:
    from meshtune.config.evaluation import EvaluationConfig
    from meshtune.evaluation.benchmarks.items import Benchmark
    from meshtune.evaluation.run import How
    from meshtune.evaluation.scoring import Result, Score
    from meshtune.finalists.race import Race

POINTS = 100.0
_NAME_SPACE, _SPACE = 4, 3  # of a printed table: around the first column and both edges; around each further one


def columns(benchmark: Benchmark, how: How, results: Sequence[Result], part: str = "") -> list[Column]:
    """The columns of a benchmark: its verdict, further scores, and the likelihood of right answers.

    `part`: which of its items they are of, where that is not all.
    """
    from meshtune.evaluation.benchmarks.items import PROBABILITY

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

    Likelihoods and means that are no finite numbers are left out.
    `left`: the items that those had answered who left a race.
    """
    rows = []
    for one in listed:
        own = means.get(one.name, {})
        known: dict[str, Score | Mean] = {}
        for column in columns:
            score = own.get(column.name) or _score(results[one.name], column)
            if score is not None and (column.verdict or math.isfinite(_value(score))):
                known[column.name] = score
        outcome = one.chosen.outcome if one.chosen is not None else None
        rows.append(
            Scored(
                one.name,
                one.rank,
                {name: _value(score) for name, score in known.items()},
                {name: _error(score) for name, score in known.items()},
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
    said: Sequence[str],
    guided: Mapping[str, Collection[str]],
) -> None:
    """The tables as files, and `scores.json`; `said`: notes on them. Raises StorageError.

    `guided`: the items that guided a search, of all studies that are scored together, by benchmark.
    """
    texts = as_files([made], best, said)
    plain = {name: {key: dataclasses.asdict(value) for key, value in of.items()} for name, of in results.items()}
    told = {"protocol": made.protocol, "best": best, "settings": settings.model_dump(mode="json"), "notes": said}
    told |= {"guided": {name: sorted(items) for name, items in guided.items()}}
    told |= {"race": None if race is None else {**race.told, "ids": race.ids}, "results": plain}
    texts["scores.json"] = json.dumps(told, indent=2) + "\n"
    whole_file.write_all(folder, texts, "the tables")


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


def notes(results: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """What is to be known of the scores besides: prompts that did not fit. It is the same for all candidates."""
    found = []
    for name in next(iter(results.values()), ()):
        most = max((of[name] for of in results.values()), key=lambda result: result.items)
        if most.too_long:
            what = "prompts do not fit the model even without shots, and count as wrong"
            found.append(f"{name}: {most.too_long:,} of {most.items:,} {what}.")
    return found


def show(tables: Sequence[ScoreTable], best: int, console: Console, more: Sequence[str] = ()) -> None:
    """The tables on a terminal."""
    for made in tables:
        _print(benchmark_tables.candidates(made, more), console)
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
    return None if score.error is None or not math.isfinite(score.error) else score.error


def _points(score: Score) -> Score:
    error = None if score.error is None else POINTS * score.error
    return dataclasses.replace(score, value=POINTS * score.value, error=error)


def _print(shown: TextTable, console: Console) -> None:
    title, widths = shown.title, _widths(shown, console.width)
    for part in _parts(widths, console.width):
        made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for number in part:
            # Of a fixed width: what is wider than the terminal in sum is cropped by rich where it may be narrower.
            justify: Literal["left", "right"] = "left" if number == 0 else "right"
            made.add_column(Text(shown.head[number]), justify=justify, width=widths[number], overflow="fold")
        for row in shown.rows:
            made.add_row(*(Text(row[number].text, style="bold" if row[number].bold else "") for number in part))
        console.print(made)
        title = f"{shown.title} (further columns)"
    for note in shown.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns in parts that fit a terminal, the candidate's name in each."""
    whole = room - widths[0] - _NAME_SPACE
    found, left = [[0]], whole
    for number, width in enumerate(widths[1:], start=1):
        if left < width + _SPACE and len(found[-1]) > 1:
            found.append([0])
            left = whole
        found[-1].append(number)
        left -= width + _SPACE
    return found


def _widths(shown: TextTable, room: int) -> list[int]:
    """Of the columns: heads may be broken into words and cells may not, but for long names in a narrow terminal."""
    cells = [max((cell_len(row[number].text) for row in shown.rows), default=1) for number in range(len(shown.head))]
    whole = [max(1, width, cell_len(head)) for width, head in zip(cells, shown.head, strict=True)]
    if _NAME_SPACE + sum(whole) + _SPACE * (len(whole) - 1) <= room:
        return whole
    name, *others = (max(1, width, *map(cell_len, head.split())) for width, head in zip(cells, shown.head, strict=True))
    free = room - _NAME_SPACE - _SPACE  # for the name and one more column
    others = [max(1, min(width, free - min(name, room // 4))) for width in others]
    return [max(1, min(name, free - max(others))), *others]
