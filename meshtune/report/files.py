"""`meshtune report --figures DIR`: every figure of a report as SVG and PNG, every table as CSV and LaTeX, the paragraph
for a methods section, and what to cite.

The SVGs are those of the page, on white. PNGs are drawn from them by resvg, which needs no browser; where it or a font
is missing, all the rest is written and the message says what to install.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import StorageError, extra
from meshtune.report import drawing, tables
from meshtune.report.benchmark_tables import Cell, TextTable, latex, plain_csv
from meshtune.report.groups import Group
from meshtune.report.page import Picture, size_of
from meshtune.report.sentences import loss_name
from meshtune.report.trials import Status
from meshtune.system import whole_file

SHARP = 2  # pixels of a PNG for one of the drawing's
PROBE = f"""<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40" font-family="{drawing.FAMILY}">
<text y="30" font-size="30">M</text></svg>"""


def write(
    folder: Path, pictures: Mapping[str, Picture], given: Mapping[str, TextTable], texts: Mapping[str, str]
) -> tuple[list[str], str]:
    """Write all of it into a folder, which is made; returns the names of the files, and what is missing in a sentence.

    Raises StorageError where a file cannot be written.
    """
    files = dict(texts)
    for name, table in given.items():
        files |= {f"table-{name}.csv": plain_csv(table), f"table-{name}.tex": latex(table) + "\n"}
    svgs = {name: _svg(picture) for name, picture in pictures.items()}
    whole_file.write_all(folder, {**files, **{f"{name}.svg": svg for name, svg in svgs.items()}}, "the figures")
    missing = _missing() if svgs else ""
    pngs = {} if missing else {f"{name}.png": _png(svg) for name, svg in svgs.items()}
    for name, content in pngs.items():
        try:
            (folder / name).write_bytes(content)
        except OSError as error:
            raise StorageError(f"{folder / name}: the figure cannot be written ({error.strerror})") from error
    return sorted([*files, *(f"{name}.svg" for name in svgs), *pngs]), missing


def of_study(status: Status, response: Mapping[str, Any] | None, scored: Sequence[TextTable]) -> dict[str, TextTable]:
    """The tables of one study that there is something in, by name; texts as on the page."""
    found = {"result": _result(status), "trials": _trials(status), "endings": _endings(status)}
    if rows := tables.quantities(status):
        head = ("quantity", *tables.MODELS)
        found["quantities"] = _table("Objectives and constraints", head, [[row["name"], *row["cells"]] for row in rows])
    if response is not None:
        head = ("hyperparameter", "share (%)", "low", "high")
        shares = [
            [one["name"].replace("_", " "), *(f"{100 * one[key]:.1f}" for key in ("share", "low", "high"))]
            for one in response["importances"]
        ]
        title = "Share of the variation of the loss in which a hyperparameter has a hand, with its 95 % interval"
        found["importance"] = _table(title, head, shares)
    found |= {f"scores-{place}": table for place, table in enumerate(scored, start=1)}
    return {name: table for name, table in found.items() if table.rows}


def of_comparison(groups: Sequence[Group]) -> dict[str, TextTable]:
    """The tables of several studies, by name."""
    rows = tables.comparison(groups)
    keys = [key for key in rows[0] if any(row[key] != tables.NONE for row in rows)]
    titles = {"validation": "best loss", "test": "its test loss", "gain": "gain over baseline"}
    result = [[row[key] for key in keys] for row in rows]
    head, listed = tables.studies(groups)
    return {
        "comparison": _table("The settings", [titles.get(key, key) for key in keys], result),
        "studies": _table("The studies", head, [[cell.text for cell in row] for row in listed]),
    }


# -- parts


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    return TextTable(title, tuple(head), tuple(tuple(Cell(text) for text in row) for row in rows))


def _result(status: Status) -> TextTable:
    """The columns of the test rows stand only where one of the models was tested, as on the page."""
    tested = any((status[model] or {}).get("test_loss") is not None for model in tables.MODELS)
    head = (
        "",
        loss_name(status),
        *(("test loss", "gain of best", "95 % interval") if tested else ()),
        "hyperparameters",
    )
    rows = [
        [row.name, row.validation, *((row.test, row.gain, row.interval) if tested else ()), row.note]
        for row in tables.result(status)
    ]
    return _table("Result", head, rows)


def _trials(status: Status) -> TextTable:
    head, rows = tables.trials(status)
    return _table(
        "All trials", [title.replace("_", " ") for title in head], [[c.text for c in r["cells"]] for r in rows]
    )


def _endings(status: Status) -> TextTable:
    rows = tables.endings(status, messages=False)
    keys = ("name", "count", "time", *(("tokens",) if status["tokens"] else ()))  # a program counts none
    head = ("ending", "trials", "trials' time", "tokens")[: len(keys)]
    return _table("How the trials ended, and what they cost", head, [[str(row[key]) for key in keys] for row in rows])


def _svg(picture: Picture) -> str:
    width = size_of(picture)[0]
    return drawing.standalone(drawing.drawn(picture.figure.to_plotly_json(), width, picture.label))


def _missing() -> str:
    """Why no PNG can be drawn, in a sentence; empty where it can."""
    if importlib.util.find_spec("resvg_py") is None:
        return f"PNGs were not written: they need resvg-py, {extra('train')}"
    if _png(PROBE) == _png(PROBE.replace(">M<", "> <")):
        return "PNGs were not written: this machine has no font; install one, such as the package fonts-dejavu-core"
    return ""


def _png(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=SHARP))
