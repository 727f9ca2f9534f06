"""The choice that `meshtune select` has made, for the page: its sentences, and two pictures of the evidence.

Reads `<study>/selection/selection.json`, which holds no row of any data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from meshtune.errors import Fault, InputError
from meshtune.report.figures import COLOURS, empty_figure, markers

FILE = Path("selection") / "selection.json"
Choice = Mapping[str, Any]


def read(folder: Path) -> Choice | None:
    """The choice of a study; None where none was made. Raises InputError where the file holds something else."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("chosen", "candidates", "scores", "benchmarks", "sentences", "notes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"is no choice of `meshtune select` ({type(error).__name__}): remove it, or run that again"
        raise InputError(Fault(what, path)) from error


def pictures(choice: Choice) -> dict[str, tuple[go.Figure, str]]:
    """The figures that there is something to show in, with what they show."""
    able = [one for one in choice["candidates"] if one["merit"] is not None]
    made = {}
    if len(able) > 1:
        made["chances"] = (chances(choice), "How often each candidate comes out best in resamples of the items")
    if able and len(choice["benchmarks"]) > 1:
        made["pareto"] = (front(choice), "Scores of the candidates on two benchmarks")
    return made


def chances(choice: Choice) -> go.Figure:
    """A bar a candidate: the share of resamples that it wins; those that may be the best are told apart."""
    able = [one for one in choice["candidates"] if one["merit"] is not None]
    figure = empty_figure(x="share of resamples won (%)", y="", height=140 + 26 * len(able))
    for role, name, kept in (("best", "may be the best", True), ("stopped", "not the best, at 95 %", False)):
        bars = [one for one in able if one["may_be_best"] is kept]
        if bars:
            figure.add_trace(
                go.Bar(
                    x=[100 * one["chance_best"] for one in bars],
                    y=[_label(one) for one in bars],
                    orientation="h",
                    name=name,
                    hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
                    marker={"color": COLOURS[role]},
                    meta={"role": role},
                )
            )
    order = [_label(one) for one in able]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order[::-1])
    figure.update_xaxes(rangemode="tozero")
    return figure


def front(choice: Choice) -> go.Figure:
    """Scores on the first two benchmarks, with the Pareto-optimal ones over all benchmarks and the choice marked."""
    across, up = choice["benchmarks"][:2]
    listed = {one["name"]: one for one in choice["candidates"]}
    kinds: dict[str, list[str]] = {"trial": [], "finished": [], "best": [], "untuned": []}
    for name in choice["scores"]:
        if name == choice["chosen"]:
            kinds["best"].append(name)
        elif name not in listed:
            kinds["untuned"].append(name)
        else:
            kinds["finished" if listed[name]["pareto"] else "trial"].append(name)
    titles = {"trial": "others", "finished": "Pareto-optimal", "best": "chosen", "untuned": "not to choose from"}
    symbols = {"trial": "circle", "finished": "diamond", "best": "star", "untuned": "x"}
    figure = empty_figure(x=f"{across} (points)", y=f"{up} (points)", height=380)
    for role, names in kinds.items():
        if names:
            scores = choice["scores"]
            shown = [(scores[n][across], scores[n][up], _label(listed.get(n, {"name": n}))) for n in names]
            hover = "%{text}: %{x:.1f}, %{y:.1f}<extra></extra>"
            figure.add_trace(markers(role, titles[role], shown, symbols[role], hover))
    return figure


def _label(one: Mapping[str, Any]) -> str:
    name = str(one["name"])
    return f"candidate {name}" if name.isdecimal() else name
