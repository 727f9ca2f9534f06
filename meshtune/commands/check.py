"""`meshtune check`: everything that can be known without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshtune.commands.locate import Located, locate
from meshtune.commands.prepared import Prepared, prepare
from meshtune.space import Dimension
from meshtune.words import number, point


def check(path: Path, *, folder: Path | None = None, overrides: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Find every fault; returns what would run, for people and as plain values. Raises InputError."""
    study = locate(path, overrides=overrides, folder=folder)
    prepared = prepare(study)
    return _lines(study, prepared), _facts(study, prepared)


def _facts(study: Located, prepared: Prepared) -> dict[str, Any]:
    return {
        "config": study.config.model_dump(mode="json", exclude_none=True),
        "folder": str(study.folder),
        "fixed": dict(prepared.fixed),
        "baseline": None if prepared.baseline is None else dict(prepared.baseline),
        "baseline_in_space": prepared.start is not None,
        "processes": [{"device": place.device, "threads": place.threads} for place in prepared.places],
    }


def _lines(study: Located, prepared: Prepared) -> str:
    config = study.config
    lines = [f"{study.source}: no faults", f"folder     {study.folder}"]
    if config.model is not None and prepared.data is not None:
        from meshtune.data.summary import describe

        precision = prepared.fixed["training"]["precision"]
        lines.append(f"model      {config.model.name} on {prepared.places[0].device}, trained in {precision}")
        lines.append("data\n" + describe(prepared.data))
        lines.append(f"training   {_training(prepared)}")
    lines.append("space      " + "\n           ".join(dimension(d) for d in prepared.space.dimensions))
    if prepared.space.fixed:
        lines.append(f"fixed      {point(prepared.space.fixed)}")
    if prepared.baseline is not None:
        where = "trial 0" if prepared.start is not None else "outside the space: trained beside the trials"
        lines.append(f"baseline   {point(prepared.baseline)} ({where})")
    place = prepared.places[0]
    threads = f" with {place.threads} threads" if place.threads else ""
    lines.append(f"sampler    {config.sampler.name}; {len(prepared.places)} at once on {place.device}{threads}")
    budget = config.budget.model_dump(exclude_none=True)
    lines.append("budget     " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in budget.items()))
    return "\n".join(lines)


def _training(prepared: Prepared) -> str:
    training, rows = prepared.fixed["training"], prepared.data.train.rows
    a_step = training["batch_size"] * training["gradient_accumulation"]
    steps = -(-rows // a_step)
    return f"{training['epochs']} epochs of {steps} steps with {a_step} rows each"


def dimension(searched: Dimension) -> str:
    """One searched hyperparameter in a line."""
    parameter = searched.parameter
    if searched.values or parameter.choices:
        return f"{searched.name} one of {', '.join(number(v) for v in searched.values or parameter.choices)}"
    low, high = (number(searched.decode(end)) for end in (parameter.low, parameter.high))
    how = " (log)" if parameter.log or searched.encoding == "log2" else ""
    return f"{searched.name} {low} to {high}{how}"
