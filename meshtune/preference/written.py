"""What `analyze` leaves behind: a page, the figure, and the votes and tables as CSV, JSON lines and JSON.

The figure is Figure 3 of the paper as SVG: votes of each pair, and the lead with its interval. Every file carries the
origin of the votes; those that are no evidence are stamped at the top of the page and inside the figure.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from meshtune._version import __version__
from meshtune.preference.analysis import verdict
from meshtune.preference.votes import Vote, Votes
from meshtune.system import whole_file
from meshtune.system.templates import templates

PAGE, FIGURE = "index.html", "figure3.svg"


def write(folder: Path, study: Votes, analysis: Mapping[str, Any]) -> dict[str, str]:
    """Write all files into `folder`; returns their paths by name. Raises StorageError."""
    svg = figure(analysis)
    votes = [dataclasses.asdict(vote) for vote in study.votes]
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
    environment = templates(FOLDER, html=True)
    environment.filters |= {"percent": _percent, "number": _number, "p": _p}
    return environment.get_template("analysis.html").render(
        a=analysis,
        verdicts=[verdict(pair, "") for pair in analysis["pairs"]],
        svg=Markup(svg),
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
    return f"{100 * value:{'+' if signed else ''}z.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


FOLDER = Path(__file__).parent / "templates"
WIDTH, LEFT, RIGHT = 760, 20, 740
_ROW, _TOP = 150, 64
_KINDS = (
    ("wins", "#1f5fbf", "#fff"),
    ("ties", "#c9d1da", "#1b1f24"),
    ("both_bad", "#8b949e", "#10131a"),
    ("losses", "#b4560a", "#fff"),
)


def figure(analysis: Mapping[str, Any]) -> str:
    """The SVG of an analysis."""
    rows = [_row(pair, _TOP + _ROW * number) for number, pair in enumerate(analysis["pairs"])]
    half = _edge(analysis)
    for row, pair in zip(rows, analysis["pairs"], strict=True):
        row["net"] = {key: _at(pair["net"][key], half) for key in ("mean", "low", "high")}
    marks = [half * part for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return (
        templates(FOLDER, html=True)
        .get_template("figure.svg")
        .render(
            {key: analysis[key] for key in ("stamp", "votes", "questions", "annotators")},
            rows=rows,
            height=_TOP + _ROW * len(rows) + 26,
            ticks=[(_at(value, half), f"{100 * value:+z.0f} %" if value else "0") for value in marks],
            zero=_at(0.0, half),
            width=WIDTH,
        )
    )


def _row(pair: Mapping[str, Any], top: float) -> dict[str, Any]:
    bars, left = list[dict[str, Any]](), float(LEFT)
    for kind, colour, ink in _KINDS:
        part = pair[kind] / pair["votes"]
        width = part * (RIGHT - LEFT)
        if part:
            label = f"{100 * part:.0f} %" if width > 34 else ""
            bars.append({"x": round(left, 1), "width": round(width, 1), "colour": colour, "ink": ink, "label": label})
        left += width
    mean, low, high = (100 * pair["net"][name] for name in ("mean", "low", "high"))
    words = f"net preference {mean:+z.1f} % (95 % interval {low:+z.1f} to {high:+z.1f})"
    return {"top": top, "first": pair["first"], "second": pair["second"], "bars": bars, "words": words}


def _edge(analysis: Mapping[str, Any]) -> float:
    """Where the axis of leads ends: the same for all pairs."""
    far = max(max(abs(pair["net"]["low"]), abs(pair["net"]["high"])) for pair in analysis["pairs"])
    return next(edge for edge in (0.1, 0.2, 0.4, 0.6, 1.0) if far <= edge)


def _at(value: float, half: float) -> float:
    return round(LEFT + 30 + (value / half + 1) / 2 * (RIGHT - LEFT - 60), 1)
