"""Reads a status mapping: which trials count, their hyperparameters in columns, and what is outside the picture.

A status is what `meshtune.study.status.of_record` gives with all its trials. Nothing here draws or writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Status = Mapping[str, Any]
Trial = Mapping[str, Any]

# What is searched in place of these is shown as these: they are what other tools are given.
SHOWN = {"scale": "alpha", "step": "learning_rate"}


def complete(status: Status) -> list[Trial]:
    """Trials whose loss counts, in trial order."""
    return [trial for trial in status["all"] if trial["ending"] == "complete" and trial["loss"] is not None]


def ranked(status: Status) -> list[Trial]:
    """Complete trials, the best first, the earlier one where two are equal; those that violate a constraint last."""
    return sorted(complete(status), key=lambda trial: (not feasible(trial), trial["loss"], trial["trial"]))


def feasible(trial: Trial) -> bool:
    """Whether a complete trial keeps the constraints."""
    return all(by <= 0 for by in trial.get("violations", {}).values())


def failed(status: Status) -> list[Trial]:
    """Trials that failed: they ended without a loss."""
    return [trial for trial in status["all"] if trial["ending"] not in (None, "complete", "stopped_early")]


def number_of(status: Status, name: str) -> int | None:
    """The trial that is the `best` or the `baseline`; None where there is none."""
    entry = status.get(name)
    return entry.get("trial") if entry else None


def best_so_far(trials: Sequence[Trial]) -> list[float | None]:
    """The lowest loss of a trial that keeps the constraints up to each; None before the first complete one."""
    low: float | None = None
    found = list[float | None]()
    for trial in trials:
        if trial["ending"] == "complete" and trial["loss"] is not None and feasible(trial):
            low = trial["loss"] if low is None else min(low, trial["loss"])
        found.append(low)
    return found


def columns(status: Status) -> list[str]:
    """Names of the hyperparameters of any trial, in the order in which they come."""
    names = dict[str, None]()
    for trial in status["all"]:
        names.update(dict.fromkeys(trial["hyperparameters"]))
    return list(names)


def searched(status: Status) -> list[str]:
    """Names of the columns that the search moves; those that vary where the space is not known."""
    space = [entry["name"] for entry in status.get("space") or ()]
    known = columns(status)
    names = dict.fromkeys(name if name in known else SHOWN.get(name, name) for name in space)
    if names:
        return [name for name in known if name in names]
    values = {name: {repr(trial["hyperparameters"].get(name)) for trial in status["all"]} for name in known}
    return [name for name in known if len(values[name]) > 1]


def value_of(hyperparameters: Mapping[str, Any], name: str) -> Any:
    """A hyperparameter by the name under which it is searched: scale and step follow from the others."""
    if name == "scale" and name not in hyperparameters:
        return hyperparameters["alpha"] / hyperparameters["rank"]
    if name == "step" and name not in hyperparameters:
        return hyperparameters["learning_rate"] * hyperparameters["alpha"]
    return hyperparameters.get(name)


def upper_edge(losses: Sequence[float], references: Sequence[float] = ()) -> float | None:
    """Where a picture of losses ends, so that a few very high ones do not flatten the rest; None: they all fit.

    The edge lies above nine of ten losses and above all references.
    """
    if len(losses) < 5:
        return None
    ordered = sorted(losses)
    low, top = ordered[0], max([ordered[int(0.9 * (len(ordered) - 1))], *references])
    return None if ordered[-1] <= top + 0.5 * (top - low) else top + 0.05 * (top - low)
