"""Figures of what mattered: each hyperparameter's share of the variation of the loss, a slice through the best point
for each, two of them together, and how far the loss moves by the seed alone.

Made from what `selection.response.response` found, as plain values, and from a status. Nothing is drawn without its
uncertainty: an interval, a band, or the trials themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from meshtune.report import traces
from meshtune.report.sentences import loss_name
from meshtune.report.trials import Status, complete, number_of, upper_edge, value_of
from meshtune.system.text import number

Response = Mapping[str, Any]
FORMULAS = {"scale": "alpha / rank", "step": "learning rate x alpha"}
FEW = 8  # values that each have a tick
ABOVE = 0.25  # of its height a slice shows above the highest of its line


def title_of(name: str) -> str:
    """A hyperparameter as it is written beside an axis."""
    words = name.replace("_", " ")
    return f"{words} ({FORMULAS[name]})" if name in FORMULAS else words


def formulas(found: Response) -> str:
    """What the searched hyperparameters are that other tools do not know, in a sentence."""
    known = [f"{one['name']} is {FORMULAS[one['name']]}" for one in found["slices"] if one["name"] in FORMULAS]
    return " and ".join(known)[:1].upper() + " and ".join(known)[1:] + "." if known else ""


def importances(found: Response) -> go.Figure:
    """A bar a hyperparameter, with the 95 % interval of its share."""
    rows = found["importances"]
    figure = traces.empty_figure(x="share of the variation of the loss (%)", y="", height=84 + 34 * len(rows))
    names, shares = [one["name"].replace("_", " ") for one in rows], [100 * one["share"] for one in rows]
    says = "%{y}: %{x:.0f} %<extra></extra>"
    bars = traces.bars("best", shares, names, "", says)
    less = [100 * (one["share"] - one["low"]) for one in rows]
    more = [100 * (one["high"] - one["share"]) for one in rows]
    bars.update(showlegend=False, error_x={"type": "data", "symmetric": False, "array": more, "arrayminus": less})
    figure.add_trace(bars)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], showgrid=False)
    figure.update_xaxes(range=[0, 102])
    return figure


def one_slice(status: Status, found: Response, place: int) -> go.Figure:
    """The loss by one hyperparameter, the others as in the best trial: the model's line with its 95 % band, and the
    trials near it, whose others differ."""
    line = found["slices"][place]
    name, values = line["name"], line["values"]
    ordered = line["ordered"]
    spots = values if ordered else list(range(len(values)))
    figure = traces.empty_figure(x=title_of(name), y=loss_name(status), height=270)
    figure.update_layout(showlegend=False)
    band = list(zip(spots, line["high"], strict=True)) + list(zip(spots, line["low"], strict=True))[::-1]
    area = traces.line("best", band, "95 % band", width=0, fill="toself", fillcolor=traces.colour("best"), opacity=0.18)
    figure.add_trace(area)
    low, high = _heights(line, [trial["loss"] for trial in complete(status)])
    inside = [trial for trial in complete(status) if low <= trial["loss"] <= high]
    figure.add_trace(_trials(inside, name, None if ordered else values))
    figure.add_trace(traces.line("best", list(zip(spots, line["mean"], strict=True)), "the model", "%{y:.4f}"))
    best = [trial for trial in complete(status) if trial["trial"] == number_of(status, "best")]
    star = _trials(best, name, None if ordered else values)
    marker = {"symbol": "star", "size": 13, "color": traces.colour("best-dot")}
    figure.add_trace(star.update(name="best", marker=marker, meta={"role": "best-dot"}))
    figure.update_yaxes(range=[low, high])
    _across(figure, line, values)
    return figure


def _heights(line: Mapping[str, Any], losses: Sequence[float]) -> tuple[float, float]:
    """So that the line and most of its band are seen, and the trials near them."""
    low = min(min(line["mean"]), *losses)
    edge = upper_edge(losses) or max(losses)
    high = min(max(max(line["mean"]), sorted(losses)[len(losses) // 2]), max(edge, low + 1e-9))
    return low - 0.1 * (high - low), high + ABOVE * (high - low)


def _trials(trials: Sequence[Mapping[str, Any]], name: str, choices: Sequence[Any] | None) -> go.Scatter:
    """Their losses by one hyperparameter; `choices`: by its place among these."""
    known = [(trial, value) for trial in trials if (value := value_of(trial["hyperparameters"], name)) is not None]
    known = [(trial, value) for trial, value in known if choices is None or value in choices]
    across = [value if choices is None else choices.index(value) for _, value in known]
    texts = [f"trial {trial['trial']}: {number(trial['loss'])}<br>{name} {number(value, 3)}" for trial, value in known]
    size = 4 if len(known) > 150 else 6
    return traces.markers("trial", across, [trial["loss"] for trial, _ in known], texts, "trials", "circle", size)


def _across(figure: go.Figure, line: Mapping[str, Any], values: Sequence[Any]) -> None:
    """The horizontal axis: choices by their names, few numbers each with a tick, wide ranges by their logarithm."""
    if not line["ordered"]:
        ticks = list(range(len(values)))
        figure.update_xaxes(tickvals=ticks, ticktext=[number(v, 3) for v in values], range=[-0.5, len(values) - 0.5])
        return
    log = line["log"] and min(values) > 0
    ends = [math.log10(values[0]), math.log10(values[-1])] if log else [values[0], values[-1]]
    room = 0.03 * (ends[1] - ends[0])
    figure.update_xaxes(type="log" if log else "linear", range=[ends[0] - room, ends[1] + room])
    if len(values) <= FEW:
        figure.update_xaxes(tickvals=list(values), ticktext=[number(value, 3) for value in values])


def plane(status: Status, found: Response) -> go.Figure:
    """The model's loss over two hyperparameters, the others as in the best trial; trials are dots, the best a star."""
    plane = found["plane"]
    figure = traces.empty_figure(x=title_of(plane["x"]), y=title_of(plane["y"]), height=430)
    shades = [[place / 7, traces.colour(f"scale{place}")] for place in range(8)]
    surface = go.Contour(x=plane["xs"], y=plane["ys"], z=plane["mean"], colorscale=shades, name="", showlegend=False)
    figure.add_trace(surface.update(meta={"role": "scale"}, hoverinfo="skip"))
    best = number_of(status, "best")
    for role, title, size in (("dot", "trials", 7), ("best-dot", f"best (trial {best})", 17)):
        shown = [trial for trial in complete(status) if (trial["trial"] == best) == (role == "best-dot")]
        spots = [
            (value_of(t["hyperparameters"], plane["x"]), value_of(t["hyperparameters"], plane["y"])) for t in shown
        ]
        if spots:
            texts = [f"trial {trial['trial']}: {number(trial['loss'])}" for trial in shown]
            across, up = zip(*spots, strict=True)
            symbol = "circle" if role == "dot" else "star"
            dots = traces.markers(role, across, up, texts, title, symbol, size)
            figure.add_trace(dots.update(marker={"line": {"width": 1.2, "color": "#ffffff"}}))
    for update, log, values in (
        (figure.update_xaxes, plane["log_x"], plane["xs"]),
        (figure.update_yaxes, plane["log_y"], plane["ys"]),
    ):
        ends = [values[0], values[-1]]
        update(type="log" if log else "linear", range=[math.log10(end) for end in ends] if log else ends)
        update(showgrid=False)
        if len(values) <= FEW:
            update(tickvals=list(values), ticktext=[number(value, 3) for value in values])
    return figure


def replicates(status: Status) -> go.Figure:
    """The best point trained with other seeds: each loss, their mean with its 95 % interval, and the baseline."""
    noise = status["seed_noise"]
    figure = traces.empty_figure(x=loss_name(status), y="", height=170)
    losses = noise["losses"]
    says = [f"another seed: {number(loss)}" for loss in losses]
    below = "the same point with other seeds"
    figure.add_trace(traces.markers("trial", losses, [below] * len(losses), says, "other seeds", "circle", 9))
    marks = [("best", f"trial {noise['trial']}, as the search saw it", status["best"]["loss"], "star", 14)]
    if status["baseline"] and status["baseline"]["loss"] is not None:
        marks.append(("baseline", "baseline", status["baseline"]["loss"], "diamond", 10))
    for role, name, loss, symbol, size in marks:
        text = f"{name}: {number(loss)}"
        figure.add_trace(traces.markers(role, [loss], [below], [text], name, symbol, size))
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return figure
