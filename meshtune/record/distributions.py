"""A space as Optuna distributions: as the sampler moves it, and as people know it (rank, alpha, learning rate)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from meshtune.space.space import Dimension, Parameter, Space, whole

MOVED = "params"  # a trial's attribute: what the sampler moved, where its parameters are the decoded values


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space as Optuna distributions by name, as the sampler moves it."""
    made: dict[str, BaseDistribution] = {}
    for parameter in space.parameters:
        match parameter.kind:
            case "int":
                made[parameter.name] = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
            case "float":
                made[parameter.name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
            case "categorical":
                made[parameter.name] = CategoricalDistribution(parameter.choices)
    return made


def described(space: Mapping[str, Any], *, lora: bool) -> Space:
    """The space that `Space.describe` described."""
    dimensions = []
    for one in space["searched"].values():
        parameter = Parameter(**{**one["parameter"], "choices": tuple(one["parameter"]["choices"])})
        dimensions.append(Dimension(one["name"], one["encoding"], parameter, tuple(one["values"])))
    return Space(tuple(dimensions), space["fixed"], lora, space.get("alpha") == "whole")


def space_of(notes: Mapping[str, Any]) -> Space | None:
    """The space among the notes of a record; None where none was noted."""
    fixed = notes.get("fixed") or {}
    return described(fixed["space"], lora="command" not in fixed.get("objective", {})) if "space" in fixed else None


def decoded_distributions(space: Space) -> dict[str, BaseDistribution]:
    """The same by the names and values of its hyperparameters: LoRA's alpha and learning rate, not scale and step."""
    made: dict[str, BaseDistribution] = {}
    ends: dict[str, tuple[float, float]] = {n: (v, v) for n, v in space.fixed.items() if isinstance(v, int | float)}
    for one in space.dimensions:
        parameter, choices = one.parameter, one.listed
        low, high = 0.0, 0.0
        if choices:
            made[one.name] = CategoricalDistribution(choices)
            if one.values:  # numbers, in their order
                low, high = float(one.values[0]), float(one.values[-1])
        else:
            low, high = one.decode(parameter.low), one.decode(parameter.high)
            log = parameter.log or one.encoding == "log2"
            is_whole = parameter.kind == "int"
            made[one.name] = (
                IntDistribution(int(low), int(high), log=log) if is_whole else FloatDistribution(low, high, log=log)
            )
        ends[one.name] = (low, high)
    if space.lora and "scale" in ends:
        made.pop("scale", None)
        low, high = ends["scale"][0] * ends["rank"][0], ends["scale"][1] * ends["rank"][1]
        ends["alpha"] = (whole(low), whole(high)) if space.whole_alpha else (low, high)
        made["alpha"] = FloatDistribution(*ends["alpha"], log=True)
    if space.lora and "step" in ends:
        made.pop("step", None)
        made["learning_rate"] = FloatDistribution(
            ends["step"][0] / ends["alpha"][1], ends["step"][1] / ends["alpha"][0], log=True
        )
    return made


def decoded(space: Space, hyperparameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Parameters and distributions of a point as people know it; the last digits are clipped to the interval."""
    made = {name: one for name, one in decoded_distributions(space).items() if name in hyperparameters}
    values = dict[str, Any]()
    for name, one in made.items():
        value = hyperparameters[name]
        if isinstance(one, IntDistribution | FloatDistribution):
            value = min(max(value, one.low), one.high)
        values[name] = value
    return values, made


def as_known(frozen: FrozenTrial, space: Space) -> FrozenTrial:
    """A trial of an earlier record, whose parameters are what the sampler moved, as people know it."""
    if MOVED in frozen.user_attrs or "hyperparameters" not in frozen.user_attrs:
        return frozen
    shown = copy.copy(frozen)
    shown.params, shown.distributions = decoded(space, frozen.user_attrs["hyperparameters"])
    return shown


def as_written(moved: FrozenTrial, space: Space) -> FrozenTrial:
    """The trial as a dashboard shows it, with what the sampler moved in an attribute."""
    written = copy.copy(moved)
    written.params, written.distributions = decoded(space, moved.user_attrs["hyperparameters"])
    written.user_attrs = {**moved.user_attrs, MOVED: dict(moved.params)}
    return written


def as_moved(frozen: FrozenTrial, space: Space) -> FrozenTrial:
    """The other way round: what the sampler moved, out of the trial's attribute."""
    if MOVED not in frozen.user_attrs:
        return frozen
    moved = copy.copy(frozen)
    moved.params, moved.distributions = dict(frozen.user_attrs[MOVED]), distributions(space)
    return moved
