"""What the page shows of objectives and constraints: the Pareto set, the quantities, and what was kept.

Pure functions of a status mapping with all trials.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from meshtune.report.figures import COLOURS, empty_figure, markers
from meshtune.report.sentences import quantity
from meshtune.report.trials import Status, complete, feasible, number_of
from meshtune.space.goals import LOSS
from meshtune.system.text import number

MODELS = ("untuned", "baseline", "best")


def pictures(status: Status) -> dict[str, tuple[go.Figure, str]]:
    """The Pareto set, where there are several objectives and a trial to show."""
    if len(status.get("objectives", ())) < 2 or not complete(status):
        return {}
    return {"objectives": (front(status), "Complete trials by two objectives, the Pareto set among them")}


def front(status: Status) -> go.Figure:
    """Complete trials by the first two objectives."""
    across, up = (one["quantity"] for one in status["objectives"][:2])
    best, members = number_of(status, "best"), set(status["pareto"])
    kinds: dict[str, list[dict[str, Any]]] = {"trial": [], "failed": [], "finished": [], "best": []}
    for trial in complete(status):
        values = {LOSS: trial["loss"], **trial["quantities"]}
        role = "finished" if trial["trial"] in members else "trial" if feasible(trial) else "failed"
        role = "best" if trial["trial"] == best else role
        kinds[role].append({"trial": trial["trial"], "x": values.get(across), "y": values.get(up)})
    titles = {"trial": "others", "failed": "violates a constraint", "finished": "on the Pareto set"}
    leading = "lowest loss" if any(one["quantity"] == LOSS for one in status["objectives"]) else f"best {across}"
    titles["best"] = f"best (trial {best}: {leading})"
    symbols = {"trial": "circle", "failed": "x", "finished": "diamond", "best": "star"}
    figure = empty_figure(x=across.replace("_", " "), y=up.replace("_", " "), height=400)
    line = sorted((p for role in ("finished", "best") for p in kinds[role] if p["trial"] in members), key=_across)
    if len(line) > 1:
        figure.add_trace(
            go.Scatter(
                x=[p["x"] for p in line],
                y=[p["y"] for p in line],
                mode="lines",
                line={"color": COLOURS["finished"], "width": 1, "dash": "dot"},
                showlegend=False,
                hoverinfo="skip",
                meta={"role": "finished"},
            )
        )
    for role, points in kinds.items():
        if points:
            shown = [(p["x"], p["y"], f"trial {p['trial']}: {number(p['x'])}, {number(p['y'])}") for p in points]
            figure.add_trace(markers(role, titles[role], shown, symbols[role], "%{text}<extra></extra>"))
    return figure


def rows(status: Status) -> list[dict[str, Any]]:
    """Rows of the table of quantities: `name`, and `cells` for untuned, baseline and best."""
    found = []
    for name in status.get("quantities", ()):
        values = [((status.get(model) or {}).get("quantities") or {}).get(name) for model in MODELS]
        found.append({"name": name.replace("_", " "), "cells": [quantity(name, value) for value in values]})
    return found


def constraints(status: Status) -> list[str]:
    """A sentence a constraint."""
    found = []
    for each in status.get("constraints", ()):
        if each["known"]:
            found.append(f"{each['text']}: known before training, so every trial keeps it.")
            continue
        limit = "" if each["limit"] is None else f" (limit {quantity(each['quantity'], each['limit'])})"
        found.append(
            f"{each['text']}{limit}: kept by {each['kept']} of {status['trials']['complete']} complete trials."
        )
    return found


def _across(point: dict[str, Any]) -> tuple[float, float]:
    return point["x"], point["y"]
