"""The figures of a study, as plotly figures: history, parallel coordinates, learning curves, endings, comparison, the
Pareto sets of objectives and of benchmarks, and the evidence of a selection.

Each takes a status mapping with all trials and holds for one trial and for many: one trace a kind, not one a trial.
Traces carry `meta: {"role": ..}`: the page gives each role its colour by theme, and the colours here are those of
light paper. Nothing here is read from disk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from meshtune.report import traces
from meshtune.report.groups import Group
from meshtune.report.scales import decades
from meshtune.report.sentences import loss_name, short_loss
from meshtune.report.trials import (
    SHOWN,
    Status,
    Trial,
    best_so_far,
    complete,
    failed,
    feasible,
    number_of,
    searched,
    upper_edge,
)
from meshtune.space.goals import LOSS
from meshtune.system.text import number
from meshtune.trial import Ending

BANDED = 5  # seeds from which on their interval is drawn
TICKS = 8  # at most so many different values get a tick each


def history(status: Status) -> go.Figure:
    """The loss of every trial and the best so far, in trial order, with baseline and untuned as lines."""
    done = complete(status)
    references = [(name, entry["loss"]) for name, entry in _references(status)]
    edge = upper_edge([trial["loss"] for trial in done], [loss for _, loss in references])
    inside = [trial for trial in done if edge is None or trial["loss"] <= edge]
    above = [trial for trial in done if edge is not None and trial["loss"] > edge]
    shown = [trial["loss"] for trial in inside] + [loss for _, loss in references] or [0.0, 1.0]
    low, top = min(shown), edge if edge is not None else max(shown)
    span = (top - low) or 0.1 * abs(top) or 1.0
    figure = traces.empty_figure(x="trial", y=short_loss(status), height=380)
    figure.update_layout(meta={"above": len(above)})
    figure.update_yaxes(range=[low - 0.06 * span, top + 0.14 * span])
    figure.add_trace(_points(inside, [trial["loss"] for trial in inside], "trial", "trial", "circle"))
    if above:
        over = _points(above, [top] * len(above), "trial", "above the picture", "triangle-up")
        figure.add_trace(over.update(showlegend=False))
    if ended := failed(status):
        figure.add_trace(_points(ended, [top + 0.08 * span] * len(ended), "failed", "no loss", "x"))
    known = [(t["trial"], low) for t, low in zip(status["all"], best_so_far(status["all"]), strict=True)]
    known = [(number, low) for number, low in known if low is not None]
    if len(known) > 1:
        figure.add_trace(traces.line("best", known, "best so far", "best %{y:.4f}", shape="hv"))
    last = max(len(status["all"]) - 1, 0)
    for name, loss in references:
        dash = "dash" if name == "baseline" else "dot"
        ends = [(0, loss), (last, loss)] if last else [(-0.3, loss), (0.3, loss)]
        figure.add_trace(traces.line(name, ends, name, f"{name} %{{y:.4f}}<extra></extra>", width=1.5, dash=dash))
    figure.update_xaxes(range=[-0.03 * last - 0.4, 1.03 * last + 0.4], dtick=traces.whole(last))
    return figure


def parallel_coordinates(status: Status) -> go.Figure:
    """Every complete trial as a line through its searched hyperparameters and its loss; darker is lower.

    Trials with very high losses are left out; `figure.layout.meta["left_out"]` counts them.
    """
    done = complete(status)
    edge = upper_edge([trial["loss"] for trial in done])
    shown = sorted((t for t in done if edge is None or t["loss"] <= edge), key=lambda t: -t["loss"])
    losses = [trial["loss"] for trial in shown]
    figure = traces.empty_figure(x="", y="", height=420)
    figure.update_layout(meta={"left_out": len(done) - len(shown)}, margin={"l": 60, "r": 60, "t": 50, "b": 30})
    if not shown:
        return figure
    dimensions = [
        _axis(status, name, [trial["hyperparameters"].get(name) for trial in shown]) for name in searched(status)
    ]
    span = [min(losses), max(losses)] if min(losses) < max(losses) else [losses[0] - 0.5, losses[0] + 0.5]
    dimensions.append({"label": short_loss(status), "values": losses, "range": span, "tickformat": ".4~g"})
    ordered = sorted(losses)
    line = {
        "color": losses,
        "colorscale": traces.DARK_IS_LOW,
        "cmin": span[0],
        "cmax": max(ordered[int(0.75 * (len(ordered) - 1))], span[0] + 1e-9) if len(ordered) > 4 else span[1],
    }
    font = {"size": 12, "family": traces.FONT}
    fonts = {"labelfont": {**font, "size": 13}, "tickfont": font, "rangefont": font}
    names = [f"trial {trial['trial']}: {number(trial['loss'])}" for trial in shown]
    trace = go.Parcoords(line=line, dimensions=dimensions, ids=names, **fonts)
    figure.add_trace(trace.update(meta={"role": "scale"}))
    return figure


def learning_curves(status: Status) -> go.Figure:
    """Validation loss after each epoch by the tokens that a trial was trained on: a faint line each, those that were
    stopped early with a mark at their end, baseline and best over them. By epoch where tokens are not known."""
    measured = [trial for trial in status["all"] if trial["losses"]]
    by_tokens = all(trial["tokens"] for trial in measured)
    figure = traces.empty_figure(x="tokens trained on" if by_tokens else "epoch", y=loss_name(status), height=380)
    _add_curves(figure, status, {trial["trial"]: _by_epoch(trial, tokens=by_tokens) for trial in measured})
    if by_tokens:
        figure.update_xaxes(rangemode="tozero")
    else:
        figure.update_xaxes(dtick=traces.whole(max((len(t["losses"]) for t in measured), default=1)))
    return figure


def rungs(status: Status) -> go.Figure:
    """Losses at the rungs of early stopping by tokens: trials that were stopped, those that were not, and the best."""
    figure = traces.empty_figure(x="tokens trained on", y="loss at rungs", height=380)
    points = {trial["trial"]: [(tokens, loss) for tokens, loss in trial["rungs"]] for trial in status["all"]}
    _add_curves(figure, status, {number: found for number, found in points.items() if found})
    figure.update_xaxes(rangemode="tozero")
    return figure


def _by_epoch(trial: Trial, *, tokens: bool) -> list[tuple[float, float]]:
    """An epoch is so many tokens as any other of the trial."""
    each = trial["tokens"] / len(trial["losses"]) if tokens else 1
    return [(each * epoch, loss) for epoch, loss in enumerate(trial["losses"], start=1)]


def _add_curves(figure: go.Figure, status: Status, points: Mapping[int, list[tuple[float, float]]]) -> None:
    """Curves of trials by number: faint ones in one trace a kind, then the baseline, then the best."""
    best, baseline = number_of(status, "best"), number_of(status, "baseline")
    early = {trial["trial"] for trial in status["all"] if trial["ending"] == "stopped_early"} - {best, baseline}
    others = [number for number in points if number not in early | {best, baseline}]
    kinds = [("stopped", "stopped early", [number for number in points if number in early])]
    kinds += [("trial", "trained to the end" if early else "other trials", others)]
    alone = {baseline: "baseline", best: "best"}  # the best last: it may be the baseline
    kinds += [(name, f"{name} (trial {n})", [n]) for n, name in alone.items() if n is not None and n in points]
    for role, name, numbers in kinds:
        if numbers:
            curves = [(number, points[number]) for number in numbers]
            faint = role not in ("best", "baseline")
            figure.add_trace(traces.curves(curves, role, name, figure.layout.xaxis.title.text, faint=faint))
    if early & points.keys():
        ends = [(points[number][-1], f"trial {number}: stopped early") for number in sorted(early & points.keys())]
        across, up = [x for (x, _), _ in ends], [y for (_, y), _ in ends]
        texts = [text for _, text in ends]
        figure.add_trace(traces.markers("failed", across, up, texts, "where it was stopped", "x", 7))
    losses = [loss for found in points.values() for _, loss in found]
    edge = upper_edge(losses)
    figure.update_layout(meta={"cut": edge is not None})
    if edge is not None:
        figure.update_yaxes(range=[min(losses) - 0.05 * (edge - min(losses)), edge])


def endings(status: Status) -> go.Figure:
    """How many trials ended how, as one bar."""
    counts = Counter(trial["ending"] or "pending" for trial in status["all"])
    figure = traces.empty_figure(x="trials", y="", height=150)
    for name in (*Ending, "pending"):
        if count := counts[name]:
            role, title = f"ending-{name.replace('_', '-')}", f"{name.replace('_', ' ')} ({count})"
            figure.add_trace(traces.bars(role, [count], [""], title, "%{x}<extra>%{fullData.name}</extra>"))
    figure.update_layout(barmode="stack", bargap=0.1, legend={"traceorder": "normal"})
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure.update_xaxes(dtick=traces.whole(len(status["all"])))
    return figure


def comparison(groups: Sequence[Group]) -> go.Figure:
    """Best loss so far by number of trials: a line a group, the mean over its seeds with its 95 % interval.

    Of fewer than `BANDED` seeds each study is a line of its own: an interval over so few says nothing.
    """
    figure = traces.empty_figure(x="trials", y="best loss so far", height=420)
    for index, group in enumerate(groups):
        curve, name, role = group.curve, group.title, f"series{index % traces.SERIES}"
        if len(group.studies) > 1 and group.seeds < BANDED:
            for number, study in enumerate(group.studies):
                lows = list(enumerate(best_so_far(study.status["all"]), start=1))
                line = traces.line(
                    role, lows, name, f"{study.name}: %{{y:.4f}} after %{{x}} trials", width=1.5, shape="hv"
                )
                figure.add_trace(line.update(legendgroup=name, showlegend=number == 0))
            continue
        if group.seeds > 1:
            band = [(x, mean.high) for x, mean in curve] + [(x, mean.low) for x, mean in reversed(curve)]
            area = traces.line(role, band, name, width=0, fill="toself", fillcolor=traces.colour(role), opacity=0.18)
            figure.add_trace(area.update(legendgroup=name, showlegend=False))
        means, shape = [(x, mean.mean) for x, mean in curve], "hv" if group.seeds == 1 else "linear"
        line = traces.line(role, means, name, "%{y:.4f} after %{x} trials", shape=shape)
        figure.add_trace(line.update(legendgroup=name))
    figure.update_xaxes(dtick=traces.whole(max((group.curve[-1][0] for group in groups if group.curve), default=1)))
    return figure


def comparison_by_time(groups: Sequence[Group]) -> go.Figure | None:
    """Best loss so far by search time: a line a study in the colour of its group; None where no time is known."""
    figure = traces.empty_figure(x="hours of search", y="best loss so far", height=420)
    for index, group in enumerate(groups):
        first = True
        for study in group.studies:
            ended = sorted((t for t in study.status["all"] if t["elapsed"]), key=lambda trial: trial["elapsed"])
            lows = zip(ended, best_so_far(ended), strict=True)
            points = [(trial["elapsed"] / 3600, low) for trial, low in lows if low is not None]
            if points:
                says = f"{study.name}: %{{y:.4f}} after %{{x:.2f}} hours"
                line = traces.line(f"series{index % traces.SERIES}", points, group.title, says, width=1.8, shape="hv")
                figure.add_trace(line.update(legendgroup=group.title, showlegend=first))
                first = False
    figure.update_xaxes(rangemode="tozero")
    return figure if figure.data else None


def objectives(status: Status) -> go.Figure:
    """Complete trials by the first two objectives; a line joins the Pareto set."""
    across, up = (one["quantity"] for one in status["objectives"][:2])
    best, members = number_of(status, "best"), set(status["pareto"])
    kinds: dict[str, list[tuple[Any, Any, str]]] = {"trial": [], "failed": [], "finished": [], "best": []}
    line = list[tuple[Any, Any]]()
    for trial in complete(status):
        values = {LOSS: trial["loss"], **trial["quantities"]}
        x, y = values.get(across), values.get(up)
        role = "finished" if trial["trial"] in members else "trial" if feasible(trial) else "failed"
        role = "best" if trial["trial"] == best else role
        kinds[role].append((x, y, f"trial {trial['trial']}: {number(x)}, {number(y)}"))
        if trial["trial"] in members:
            line.append((x, y))
    leading = "lowest loss" if any(one["quantity"] == LOSS for one in status["objectives"]) else f"best {across}"
    names = {"trial": "others", "failed": "violates a constraint", "finished": "on the Pareto set"}
    names["best"] = f"best (trial {best}: {leading})"
    figure = traces.empty_figure(x=across.replace("_", " "), y=up.replace("_", " "), height=400)
    if len(line) > 1:
        figure.add_trace(traces.line("finished", sorted(line), "", width=1, dash="dot").update(showlegend=False))
    return _plane(figure, kinds, names, "%{text}")


def benchmarks(selected: Mapping[str, Any]) -> go.Figure:
    """Scores on the first two benchmarks, with the Pareto-optimal ones over all benchmarks and the choice marked."""
    across, up = selected["benchmarks"][:2]
    listed = {one["name"]: one for one in selected["candidates"]}
    kinds: dict[str, list[tuple[Any, Any, str]]] = {"trial": [], "finished": [], "best": [], "untuned": []}
    for name, scores in selected["scores"].items():
        role = "untuned" if name not in listed else "finished" if listed[name]["pareto"] else "trial"
        role = "best" if name == selected["chosen"] else role
        kinds[role].append((scores[across], scores[up], _label(name)))
    names = {"trial": "others", "finished": "Pareto-optimal", "best": "chosen", "untuned": "not to choose from"}
    figure = traces.empty_figure(x=f"{across} (points)", y=f"{up} (points)", height=380)
    return _plane(figure, kinds, names, "%{text}: %{x:.1f}, %{y:.1f}")


def chances(selected: Mapping[str, Any]) -> go.Figure:
    """A bar a candidate: the share of resamples that it wins; those that may be the best are told apart."""
    able = [one for one in selected["candidates"] if one["merit"] is not None]
    figure = traces.empty_figure(x="share of resamples won (%)", y="", height=140 + 26 * len(able))
    for role, name, kept in (("best", "may be the best", True), ("stopped", "not the best, at 95 %", False)):
        bars = [one for one in able if one["may_be_best"] is kept]
        if bars:
            lengths, labels = [100 * one["chance_best"] for one in bars], [_label(one["name"]) for one in bars]
            figure.add_trace(traces.bars(role, lengths, labels, name, "%{y}: %{x:.0f} %<extra></extra>"))
    order = [_label(one["name"]) for one in able]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order[::-1])
    figure.update_xaxes(rangemode="tozero")
    return figure


# -- parts


def _plane(
    figure: go.Figure, kinds: Mapping[str, Sequence[tuple[Any, Any, str]]], names: Mapping[str, str], hover: str
) -> go.Figure:
    """The figure with points (x, y, text) of each role in a plane of two measures; the best ones are larger."""
    for role, points in kinds.items():
        if points:
            across, up, texts = zip(*points, strict=True)
            size = 14 if role == "best" else 9
            figure.add_trace(traces.markers(role, across, up, texts, names[role], traces.SYMBOLS[role], size, hover))
    return figure


def _label(name: Any) -> str:
    return f"candidate {name}" if str(name).isdecimal() else str(name)


def _references(status: Status) -> list[tuple[str, Any]]:
    named = [(name, status.get(name)) for name in ("baseline", "untuned")]
    return [(name, entry) for name, entry in named if entry is not None and entry["loss"] is not None]


def _points(trials: Sequence[Trial], y: Sequence[float | None], role: str, name: str, symbol: str) -> go.Scatter:
    """Markers that say, under the pointer, the trial's number, how it ended and what it was."""
    texts = []
    for trial in trials:
        how = number(trial["loss"]) + (", worse than untuned" if trial.get("worse_than_untuned") else "")
        how = how if trial["ending"] == "complete" else str(trial["ending"]).replace("_", " ")
        values = "<br>".join(f"{key} {number(value, 3)}" for key, value in trial["hyperparameters"].items())
        texts.append(f"<b>trial {trial['trial']}</b>: {how}<br>{values}")
    numbers = [trial["trial"] for trial in trials]
    return traces.markers(role, numbers, y, texts, name, symbol, 6 if len(trials) > 150 else 8)


def _axis(status: Status, name: str, values: Sequence[Any]) -> dict[str, Any]:
    """One axis of the parallel coordinates: choices by their place, wide positive ranges by their logarithm."""
    space = {e["name"]: e for e in status.get("space") or ()}
    entry = space.get(name)
    moved = entry or next((space[other] for other, shown in SHOWN.items() if shown == name and other in space), None)
    choices = entry["choices"] if entry else None
    if choices or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        known = list(choices) if choices else sorted({str(v) for v in values})
        places = [_place(known, v if choices else str(v)) for v in values]
        ticks = list(range(len(known)))
        span = [0, len(known) - 1] if len(known) > 1 else [-0.5, 0.5]
        return {
            "label": name.replace("_", " "),
            "values": places,
            "range": span,
            "tickvals": ticks,
            "ticktext": [number(v, 3) for v in known],
        }
    ends = [float(v) for v in values]
    if entry:
        ends += [entry["low"], entry["high"]]
    low, high = min(ends), max(ends)
    log = low > 0 and ((moved["log"] if moved else False) or high / low >= 50)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    place = math.log10 if log else float
    axis: dict[str, Any] = {
        "label": name.replace("_", " "),
        "values": [place(v) for v in values],
        "range": [place(low), place(high)],
    }
    if log:
        exact = sorted(set(values))
        marks: list[float] = exact if len(exact) <= TICKS and entry and entry["integer"] else decades(low, high)
        axis |= {"tickvals": [math.log10(v) for v in marks], "ticktext": [number(float(v), 3) for v in marks]}
    return axis


def _place(known: Sequence[Any], value: Any) -> int:
    """Where a value stands among the choices; numbers may differ in their last digits, as the space allows."""
    if value in known:
        return known.index(value)
    return min(range(len(known)), key=lambda index: abs(known[index] - value))
