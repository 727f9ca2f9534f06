"""What `analyze` leaves behind: a page, the figure, and the votes and tables as CSV, JSON lines and JSON.

Every file carries the origin of the votes; those that are no evidence are stamped at the top of the page.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from meshtune._version import __version__
from meshtune.preference.analysis import verdict
from meshtune.preference.figure import FOLDER, figure
from meshtune.preference.votes import Vote, Votes, plain
from meshtune.system import whole_file

PAGE, FIGURE = "index.html", "figure3.svg"


def write(folder: Path, study: Votes, analysis: Mapping[str, Any]) -> dict[str, str]:
    """Write all files into `folder`; returns their paths by name. Raises StorageError."""
    svg = figure(analysis)
    votes = [plain(vote) for vote in study.votes]
    texts = {
        PAGE: page(analysis, svg),
        FIGURE: svg,
        "votes.jsonl": "".join(json.dumps(vote, ensure_ascii=False) + "\n" for vote in votes),
        "votes.csv": _csv(list(Vote.__dataclass_fields__), votes),
        "questions.csv": _table(analysis, "per_question"),
        "annotators.csv": _table(analysis, "per_annotator"),
        "analysis.json": json.dumps(analysis, indent=2) + "\n",
    }
    whole_file.write_all(folder, texts, "the analysis")
    return {name: str((folder / name).absolute()) for name in texts}


def page(analysis: Mapping[str, Any], svg: str) -> str:
    """One self-contained page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "p": _p}
    return environment.get_template("analysis.html").render(
        a=analysis,
        verdicts=[verdict(pair, "") for pair in analysis["pairs"]],
        svg=Markup(svg),
        style=Markup((FOLDER / "analysis.css").read_text(encoding="utf-8")),
        made=json.dumps(analysis["made"], indent=2, ensure_ascii=False) if analysis["made"] else "",
        version=__version__,
    )


def _table(analysis: Mapping[str, Any], key: str) -> str:
    rows = [
        {"origin": analysis["origin"], "first": pair["first"], "second": pair["second"], **row}
        for pair in analysis["pairs"]
        for row in pair[key]
    ]
    return _csv(list(rows[0]), rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: _cell(value) for key, value in row.items()} for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A spreadsheet takes text that begins with these for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:{'+' if signed else ''}.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"
