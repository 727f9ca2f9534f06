"""The parts that figures are made of: an empty one in the page's style, and traces of lines, points and bars.

Each trace has its role in `meta`, by which the page gives it a colour for light and for dark (page.css); the colours
in a figure itself are those of light paper. One trace a kind, not one a trial.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

SYMBOLS = {"trial": "circle", "failed": "x", "untuned": "x", "finished": "diamond", "best": "star"}
SERIES = 8  # colours of groups, --series0 to --series7
DARK_IS_LOW = [[0.0, "#0a1f4d"], [0.35, "#2f5da8"], [0.7, "#82a5d6"], [1.0, "#c3d2e8"]]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def empty_figure(*, x: str, y: str, height: int) -> go.Figure:
    """Axes with these titles in the page's style; nothing is drawn yet."""
    figure = go.Figure()
    axis = {"gridcolor": "#e7e9ee", "zeroline": False, "linecolor": "#c9cdd6", "automargin": True}
    figure.update_layout(
        template="none",
        showlegend=True,
        height=height,
        font={"family": FONT, "size": 13, "color": "#1c2330"},
        margin={"l": 50, "r": 20, "t": 50, "b": 45},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"font": {"family": FONT}},
        xaxis={**axis, "title": {"text": x}, "showgrid": False},
        yaxis={**axis, "title": {"text": y}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def curves(
    given: Sequence[tuple[int, Sequence[tuple[float, float]]]], role: str, name: str, unit: str, *, faint: bool
) -> go.Scatter:
    """Curves of trials, given by number and points, as one trace."""
    x, y, text = list[Any](), list[Any](), list[Any]()
    for trial, points in given:
        x += [*(place for place, _ in points), None]
        y += [*(loss for _, loss in points), None]
        text += [f"trial {trial}"] * len(points) + [None]
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="lines+markers",
        line={"color": colour(role), "width": 1 if faint else 2.5},
        marker={"size": 4 if faint else 7, "color": colour(role)},
        opacity=_faint(len(given)) if faint else 1.0,
        name=name,
        hovertemplate=f"%{{text}}<br>{unit} %{{x}}: %{{y:.4f}}<extra></extra>",
        meta={"role": role},
    )


def line(
    role: str, points: Sequence[tuple[Any, Any]], name: str, hover: str = "", *, width: float = 2.5, **more: Any
) -> go.Scatter:
    """A line through points; without `hover` it says nothing under the pointer. `dash`, `shape`: of the line."""
    line: dict[str, Any] = {"color": colour(role), "width": width}
    line |= {key: more.pop(key) for key in ("dash", "shape") if key in more}
    says = {"hovertemplate": hover} if hover else {"hoverinfo": "skip"}
    x, y = [x for x, _ in points], [y for _, y in points]
    return go.Scatter(x=x, y=y, mode="lines", line=line, name=name, meta={"role": role}, **says, **more)


def markers(
    role: str,
    x: Sequence[Any],
    y: Sequence[Any],
    texts: Sequence[str],
    name: str,
    symbol: str,
    size: int,
    hover: str = "%{text}",
) -> go.Scatter:
    """Points that say `hover` under the pointer."""
    marker = {"color": colour(role), "size": size, "symbol": symbol}
    says = {"text": list(texts), "hovertemplate": f"{hover}<extra></extra>"}
    return go.Scatter(x=list(x), y=list(y), mode="markers", name=name, marker=marker, meta={"role": role}, **says)


def bars(role: str, lengths: Sequence[float], labels: Sequence[str], name: str, hover: str) -> go.Bar:
    """Bars from left to right."""
    marker, meta = {"color": colour(role)}, {"role": role}
    return go.Bar(x=lengths, y=labels, orientation="h", name=name, hovertemplate=hover, marker=marker, meta=meta)


def whole(last: int) -> int | None:
    """Ticks at whole numbers only, where plotly would put some between them."""
    return 1 if last <= 12 else None


def colour(role: str) -> str:
    """The colour of a role on light paper."""
    return light()[role]


@cache
def light() -> dict[str, str]:
    """The colours of light paper by name: the first block of the page's style."""
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#\w+)", style.partition("}")[0]))


def _faint(count: int) -> float:
    return max(0.4, min(0.9, 40 / count))
