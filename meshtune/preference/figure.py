"""The figure of human preference (Figure 3 of the paper) as SVG: votes of each pair, and the lead with its interval.

Votes that are no evidence carry their stamp inside the picture. Plain text: it stands in a page or in a paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    rows = [_row(pair, _TOP + _ROW * number) for number, pair in enumerate(analysis["pairs"])]
    half = _edge(analysis)
    for row, pair in zip(rows, analysis["pairs"], strict=True):
        row["net"] = {key: _at(pair["net"][key], half) for key in ("mean", "low", "high")}
    return environment.get_template("figure.svg").render(
        stamp=analysis["stamp"],
        votes=analysis["votes"],
        questions=analysis["questions"],
        annotators=analysis["annotators"],
        rows=rows,
        height=_TOP + _ROW * len(rows) + 26,
        ticks=[(round(_at(value, half), 1), f"{100 * value:+.0f} %" if value else "0") for value in _ticks(half)],
        zero=_at(0.0, half),
        width=WIDTH,
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
    net = pair["net"]
    words = (
        f"net preference {100 * net['mean']:+.1f} % (95 % interval {100 * net['low']:+.1f} to {100 * net['high']:+.1f})"
    )
    return {"top": top, "first": pair["first"], "second": pair["second"], "bars": bars, "words": words}


def _edge(analysis: Mapping[str, Any]) -> float:
    """Where the axis of leads ends: the same for all pairs."""
    far = max(max(abs(pair["net"]["low"]), abs(pair["net"]["high"])) for pair in analysis["pairs"])
    return next(edge for edge in (0.1, 0.2, 0.4, 0.6, 1.0) if far <= edge)


def _ticks(half: float) -> list[float]:
    return [half * part for part in (-1.0, -0.5, 0.0, 0.5, 1.0)]


def _at(value: float, half: float) -> float:
    return round(LEFT + 30 + (value / half + 1) / 2 * (RIGHT - LEFT - 60), 1)
