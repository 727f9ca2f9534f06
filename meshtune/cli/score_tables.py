"""The tables of `evaluate` on a terminal: no number is cut, however narrow it is; wide tables are shown in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshtune.report import benchmark_tables
from meshtune.report.benchmark_tables import TextTable
from meshtune.selection.candidates import ScoreTable

_NAME_SPACE, _SPACE = 4, 3  # of a printed table: around the first column and both edges; around each further one


def show(tables: Sequence[ScoreTable], best: int, console: Console, notes: Sequence[str] = ()) -> None:
    """The tables on a terminal."""
    for made in tables:
        _print(benchmark_tables.candidates(made, notes), console)
    _print(benchmark_tables.statistics(tables, best), console)


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
