"""The two tables of a scoring, as the paper has them, for people, CSV, Markdown and LaTeX.

Its Table 4: every candidate with its scores and their standard errors; an asterisk marks the Pareto-optimal ones of the
ranked candidates over all benchmarks, a dagger the baseline, bold the best score of each column but the user's own
metrics. Its Table 1: minimum, maximum, mean and sample standard deviation of the best few, with the standard error of
the mean, beside the baseline.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meshtune.selection.candidates import Column, Scored, ScoreTable, highest, no_signal, pareto, statistics_of
from meshtune.selection.statistics import share_interval

PAGE = 45  # rows that one page of a paper holds
ALIKE = "[..]: 95 % interval (Wilson) where all answers are alike: they have no standard error."
META = ("title", "items", "measured", "chance", "digits")  # of a column, one row each
DAGGER, LEFT, PLUS_MINUS = "\u2020", "\u2021", "\u00b1"
_LATEX = {character: rf"\{character}" for character in "%_&#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DAGGER: r"$\dagger$",
    LEFT: r"$\ddagger$",
    PLUS_MINUS: r"$\pm$",
    "*": r"$\ast$",
    "[": "{[}",  # which begins an option of the line's end before it
}
_MARKDOWN = {character: rf"\{character}" for character in "\\|*"}


@dataclass(frozen=True)
class Cell:
    """Text that is shown, perhaps in bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class TextTable:
    """A table for people. `notes` stand below it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def candidates(table: ScoreTable, more: Sequence[str] = ()) -> TextTable:
    """Table 4. `more`: notes about it."""
    optimal = pareto(table.ranked, table.verdicts)
    top = {column.name: highest(table.ranked, column) for column in table.columns}
    with_loss = any(row.loss is not None for row in table.rows)
    rows = []
    for row in table.rows:
        mark = ("*" if row.name in optimal and row.rank is not None else "") + (DAGGER if row.baseline else "")
        mark += "" if row.left is None else LEFT
        cells = [Cell(row.name), Cell("" if row.rank is None else str(row.rank)), Cell(mark)]
        if with_loss:
            cells.append(Cell("" if row.loss is None else f"{row.loss:.4f}"))
        rows.append((*cells, *(_score(table, row, column, top[column.name]) for column in table.columns)))
    silent = [column.title for column in table.verdicts if no_signal(table, column)]
    errors = f"; {PLUS_MINUS}: standard error over items" if any(row.errors for row in table.rows) else ""
    alike = any(_bounds(table, row, column) for row in table.rows for column in table.columns)
    notes = [
        f"*: Pareto-optimal among the ranked ones; {DAGGER}: the baseline{errors}.",
        *([ALIKE] if alike else []),
        *_race(table),
        *(f"No signal in {title}: no candidate is above chance by two standard errors." for title in silent),
        *_measured(table),
        *more,
    ]
    titles = (f"{column.title} (no signal)" if column.title in silent else column.title for column in table.columns)
    head = ("candidate", "rank", "", *(("loss",) if with_loss else ()), *titles)
    return TextTable(f"Scores of the candidates of {table.label}, in points", head, tuple(rows), tuple(notes))


def statistics(tables: Sequence[ScoreTable], best: int) -> TextTable:
    """Table 1: over the `best` candidates of each search. The tables are comparable."""
    rows = []
    for table in tables:
        chosen = [row for row in table.ranked if row.rank is not None and row.rank <= best]
        which = "best" if [row.rank for row in chosen] == list(range(1, len(chosen) + 1)) else "named"
        for column in table.verdicts if chosen else ():
            found = statistics_of(chosen, column)
            # Models that all score alike do not show that others would: an error of zero is none.
            numbers = (found.low, found.high, found.mean, found.deviation, found.error or None)
            cells = [Cell("-" if number is None else f"{number:.2f}") for number in numbers]
            rows.append((Cell(f"{table.label}, {len(chosen)} {which}"), Cell(column.title), *cells))
    baselines = [(table, row) for table in tables for row in table.rows if row.baseline]
    one = len(tables) == 1 or _same(baselines)
    for table, row in baselines[:1] if one else baselines:
        name = f"{row.name} {DAGGER}" if one else f"{table.label}, {row.name} {DAGGER}"
        for column in table.verdicts:
            error = row.errors.get(column.name)
            shown = _bounds(table, row, column) or ("" if error is None else f"{error:.2f}")
            texts = ("", "", f"{row.scores[column.name]:.2f}", "", shown)
            rows.append((Cell(name), Cell(column.title), *map(Cell, texts)))
    alike = any(_bounds(table, row, column) for table, row in baselines for column in table.verdicts)
    notes = (
        "st. d.: of a sample, over candidates. s. e.: of the mean over candidates; of the baseline, over items.",
        *([ALIKE] if alike else []),
        "The candidates answered the same items, so their scores share those items' noise.",
    )
    head = ("candidates", "benchmark", "min", "max", "avg.", "st. d.", "s. e.")
    return TextTable("Statistics of the best candidates, in points", head, tuple(rows), notes)


def as_csv(table: ScoreTable) -> str:
    """Table 4 as numbers: a row a candidate, then what is known of each column, as `score_files.read` reads it."""
    optimal = pareto(table.ranked, table.verdicts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [name for column in table.columns for name in (column.name, f"{column.name}:se")]
    writer.writerow(["name", "rank", "trial", "loss", "left", *scores, "pareto", "default"])
    for row in table.rows:
        numbers = [(row.scores.get(column.name), row.errors.get(column.name)) for column in table.columns]
        values = [value for pair in numbers for value in pair]
        marks = [int(row.name in optimal), int(row.baseline)]
        writer.writerow([row.name, row.rank, row.trial, row.loss, row.left, *values, *marks])
    for name in META:
        values = [getattr(column, name) for column in table.columns]
        writer.writerow([name, "", "", "", "", *(value for each in values for value in (each, "")), "", ""])
    writer.writerow(["protocol", table.protocol])
    return text.getvalue()


def plain_csv(table: TextTable) -> str:
    """A table for people as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.head, *([cell.text for cell in row] for row in table.rows)])
    return text.getvalue()


def markdown(table: TextTable) -> str:
    """A table in Markdown, with its title and notes."""

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rows = [line(map(_marked, row)) for row in table.rows]
    rule = "|" + "|".join("---" if number == 0 else "---:" for number in range(len(table.head))) + "|"
    title, *notes = (_marked(Cell(text)) for text in (table.title, *table.notes))
    head = line(_marked(Cell(text)) for text in table.head)
    return "\n".join([title, "", head, rule, *rows, "", *(f"{note}  " for note in notes), ""])


def latex(table: TextTable) -> str:
    """A table in LaTeX (booktabs), with its title as the caption and its notes below it.

    One that no page holds goes on over pages (longtable).
    """
    columns = "l" + "".join("l" if _in_words(cells) else "r" for cells in list(zip(*table.rows, strict=True))[1:])
    rows = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in table.rows]
    head = " & ".join(_latex(Cell(text)) for text in table.head) + r" \\"
    notes = [r"\\[2pt] \footnotesize " + _latex(Cell(note)) for note in table.notes]
    if len(table.rows) > PAGE:
        begin = [rf"\begin{{longtable}}{{{columns}}}", rf"\caption{{{_latex(Cell(table.title))}}} \\"]
        begin += [r"\toprule", head, r"\midrule", r"\endhead"]
        return "\n".join([*begin, *rows, r"\bottomrule", *notes, r"\end{longtable}", ""])
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(Cell(table.title))}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def _score(table: ScoreTable, row: Scored, column: Column, top: float | None) -> Cell:
    value, error = row.scores.get(column.name), row.errors.get(column.name)
    if value is None:
        return Cell("-")
    beside = _bounds(table, row, column) or (f"{PLUS_MINUS} {error:.{column.digits}f}" if error else "")
    text = f"{value:.{column.digits}f} {beside}".rstrip()
    return Cell(text, row.rank is not None and row.left is None and round(value, column.digits) == top)


def _bounds(table: ScoreTable, row: Scored, column: Column) -> str:
    """The interval of a share of which all answers are alike, so that its error is zero; "" where that is not so.

    A column beside a verdict is of the verdict's items; likelihoods and metrics of the user may be no shares. Of how
    many items of a benchmark the answers are that left a race is not known here.
    """
    name, _, part = column.name.partition(":")
    items = next((one.items for one in table.verdicts if one.name == name), None)
    shares = part != "likelihood" and name != "metrics"
    if not shares or items is None or row.left is not None or row.errors.get(column.name) != 0:
        return ""
    low, high = share_interval(row.scores[column.name] / 100, items)
    return f"[{100 * low:.{column.digits}f}, {100 * high:.{column.digits}f}]"


def _race(table: ScoreTable) -> list[str]:
    """Who left a race, and that their scores are of other items."""
    left = [f"{row.name} after {row.left:,} items" for row in table.rows if row.left is not None]
    said = f"{LEFT}: left the race, {', '.join(left)}; its scores are of these alone, and it is not compared."
    return [said] if left else []


def _measured(table: ScoreTable) -> list[str]:
    lines = [f"{column.title}: {column.measured}." for column in table.verdicts if column.measured]
    return [*([f"Protocol: {table.protocol}."] if table.protocol else []), *lines]


def _same(baselines: Sequence[tuple[ScoreTable, Scored]]) -> bool:
    """Whether the searches have one baseline: the same scores."""
    return all(dict(row.scores) == dict(baselines[0][1].scores) for _, row in baselines)


def _marked(cell: Cell) -> str:
    text = _escaped(cell.text, _MARKDOWN)
    return f"**{text}**" if cell.bold and text else text


def _in_words(cells: Iterable[Cell]) -> bool:
    return any(len(cell.text.split()) > 3 or cell.text[:1].isalpha() for cell in cells)


def _latex(cell: Cell) -> str:
    text = _escaped(cell.text, _LATEX)
    return rf"\textbf{{{text}}}" if cell.bold and text else text


def _escaped(text: str, escapes: Mapping[str, str]) -> str:
    """In one line, as rows of tables are."""
    return "".join(escapes.get(character, character) for character in " ".join(text.splitlines()))
