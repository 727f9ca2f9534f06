"""Hyperparameters: what may be searched, how the optimizer sees it, and how its numbers become hyperparameters.

The optimizer moves *parameters* (`rank_log2`, `scale_log2`, `dropout_index`, `step`); the record and all reports show
the decoded *hyperparameters* (rank, alpha, dropout, learning rate). Presets stand in `meshtune.config.presets`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from meshtune.errors import Fault, InputError, refuse

Value = bool | int | float | str

SLACK = 1e-9  # relative: encoding and decoding cost a few of the last digits


@dataclass(frozen=True)
class Parameter:
    """One number or choice that the optimizer moves, between `low` and `high` inclusive, or among `choices`."""

    name: str
    kind: Literal["int", "float", "categorical"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Dimension:
    """One searched hyperparameter and its encoding.

    Attributes:
        name: such as `rank`, `scale`, `step`.
        encoding: `plain`; `log2` (the parameter is the exponent); `index` (the parameter counts through `values`).
        parameter: what the optimizer sees. values: of an `index`, in order.
    """

    name: str
    encoding: Literal["plain", "log2", "index"]
    parameter: Parameter
    values: tuple[Value, ...] = ()

    @property
    def listed(self) -> tuple[Any, ...]:
        """The values that it may have, where they are listed; else none."""
        return self.values or self.parameter.choices

    def decode(self, value: Any) -> Any:
        """The hyperparameter's value."""
        match self.encoding:
            case "log2":
                return 2 ** int(value) if self.parameter.kind == "int" else 2.0**value
            case "index":
                return self.values[int(value)]
            case "plain":
                return value

    def encode(self, value: Any) -> Any:
        """The parameter's value. Raises ValueError, in words, where it is outside."""
        match self.encoding:
            case "index":
                return _index(self.values, value)
            case "plain" if self.parameter.kind == "categorical":
                return self.parameter.choices[_index(self.parameter.choices, value)]
        if not isinstance(value, int | float):
            raise ValueError(f"{value} is no number")
        if self.encoding == "log2":
            return self._inside(value, math.log2(value) if value > 0 else -math.inf)
        return self._inside(value, value)

    def _inside(self, value: Any, encoded: float) -> float | int:
        low, high = self.parameter.low, self.parameter.high
        slack = SLACK * max(abs(low), abs(high))
        is_whole = self.parameter.kind == "int"
        if not low - slack <= encoded <= high + slack:
            raise ValueError(f"{value:g} is outside {self.decode(low):g} to {self.decode(high):g}")
        if is_whole and abs(encoded - round(encoded)) > SLACK:
            what = "a power of 2" if self.encoding == "log2" else "a whole number"
            raise ValueError(f"{value:g} is not {what}")
        return round(encoded) if is_whole else min(max(float(encoded), low), high)


@dataclass(frozen=True)
class Space:
    """The searched dimensions, the values of what is fixed, and whether they are LoRA's (then rank, alpha, dropout and
    learning rate are always there once decoded).

    `whole_alpha`: where alpha follows from `scale` it is a whole number, as other tools take it; studies of earlier
    versions have real ones.
    """

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    lora: bool = True
    whole_alpha: bool = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the optimizer moves."""
        return tuple(dimension.parameter for dimension in self.dimensions)

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters of a point; LoRA's as `derive` gives them."""
        values = {**self.fixed, **{d.name: d.decode(params[d.parameter.name]) for d in self.dimensions}}
        return derive(values, whole_alpha=self.whole_alpha) if self.lora else values

    def encode(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """The point of these hyperparameters. Raises InputError that names all that lies outside the space.

        An alpha between whole numbers, of another study, has its own scale, beside the one that it decodes to.
        """
        values = dict(hyperparameters)
        known = {dimension.name for dimension in self.dimensions} | set(self.fixed)
        if self.lora and {"rank", "alpha", "learning_rate"} <= values.keys():
            scale, step = values["alpha"] / values["rank"], values["learning_rate"] * values["alpha"]
            values = {"scale": self.reached(scale, values), "step": step, **values}
            known |= {"alpha", "scale", "learning_rate", "step"}
        faults = [Fault("is not part of the space", key=name) for name in values if name not in known]
        params = {}
        for dimension in self.dimensions:
            if dimension.name not in values:
                faults.append(Fault("is searched and not given", key=dimension.name))
                continue
            try:
                params[dimension.parameter.name] = dimension.encode(values[dimension.name])
            except ValueError as error:
                faults.append(Fault(f"{error} (the space)", key=dimension.name))
        for name, value in self.fixed.items():
            if name in values and not _same(values[name], value):
                faults.append(Fault(f"{values[name]} is not {value}, at which the space fixes it", key=name))
        refuse(faults)
        return params

    def reached(self, scale: float, values: Mapping[str, Any]) -> float:
        """The scale, or the nearest one of the space where both are the same alpha once that is rounded."""
        nearest = self.fixed.get("scale", scale)
        for dimension in self.dimensions:
            if dimension.name == "scale" and dimension.values:
                nearest = min(dimension.values, key=lambda value: abs(float(value) - scale))
            elif dimension.name == "scale":
                low, high = (dimension.decode(end) for end in (dimension.parameter.low, dimension.parameter.high))
                nearest = min(max(scale, low), high)
        same = self.whole_alpha and whole(float(nearest) * values["rank"]) == values["alpha"]
        return float(nearest) if same else scale

    def contains(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether `encode` takes them."""
        try:
            self.encode(hyperparameters)
        except InputError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """Plain JSON values that tell two spaces apart, for a study's fixed keys."""
        searched = {dimension.name: asdict(dimension) for dimension in self.dimensions}
        described: dict[str, Any] = {"searched": searched, "fixed": dict(self.fixed)}
        if self.lora and self.whole_alpha and "scale" in {*searched, *self.fixed}:
            described["alpha"] = "whole"
        plain: dict[str, Any] = json.loads(json.dumps(described))
        return plain


def derive(values: Mapping[str, Any], *, whole_alpha: bool = True) -> dict[str, Any]:
    """LoRA's hyperparameters: `scale` becomes alpha (scale x rank, rounded), then `step` the rate (step / alpha).

    So `step` is exactly what was asked for, whatever the rounding of alpha does to the scale.
    """
    derived = dict(values)
    if "scale" in derived:
        alpha = derived.pop("scale") * derived["rank"]
        derived["alpha"] = whole(alpha) if whole_alpha else alpha
    if "step" in derived:
        derived["learning_rate"] = derived.pop("step") / derived["alpha"]
    first = ("rank", "alpha", "dropout", "learning_rate")
    return {name: derived[name] for name in first} | {name: v for name, v in derived.items() if name not in first}


def whole(alpha: float) -> int:
    """The nearest alpha that other tools take: a whole number, at least 1."""
    return max(1, math.floor(alpha + 0.5))


def integer(name: str, low: int, high: int, *, log: bool = False) -> Dimension:
    """Whole numbers."""
    return Dimension(name, "plain", Parameter(name, "int", low, high, log))


def real(name: str, low: float, high: float, *, log: bool = False) -> Dimension:
    """Real numbers; `log`: searched by their logarithm."""
    return Dimension(name, "plain", Parameter(name, "float", low, high, log))


def power_of_two(name: str, low: int, high: int) -> Dimension:
    """2, 4, 8, ..: the optimizer moves the exponent."""
    exponents = (round(math.log2(low)), round(math.log2(high)))
    return Dimension(name, "log2", Parameter(f"{name}_log2", "int", *exponents))


def real_log2(name: str, low: float, high: float) -> Dimension:
    """Real numbers whose exponent to base 2 is moved."""
    return Dimension(name, "log2", Parameter(f"{name}_log2", "float", math.log2(low), math.log2(high)))


def choice(name: str, values: Sequence[Value]) -> Dimension:
    """A list of choices: numbers are ordered (the optimizer moves an index), anything else is categorical."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        ordered = tuple(sorted(values))
        return Dimension(name, "index", Parameter(f"{name}_index", "int", 0, len(ordered) - 1), ordered)
    return Dimension(name, "plain", Parameter(name, "categorical", choices=tuple(values)))


def _index(values: Sequence[Value], value: Any) -> int:
    for index, other in enumerate(values):
        if _same(other, value):
            return index
    raise ValueError(f"{value} is none of {', '.join(map(str, values))}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=SLACK)
    return bool(a == b)


def expected_point(space: Space, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline with what a trial's time depends on at its mean over the space: rank, epochs and batch size.

    The mean of the ranks 4 to 256 is 73: a trial of the baseline's rank 16 says little about them.
    """
    point = dict(baseline)
    for dimension in space.dimensions:
        values = [value for value in _spread(dimension) if isinstance(value, int | float)]
        if dimension.name in ("rank", "epochs", "batch_size") and values:
            point[dimension.name] = max(1, round(sum(values) / len(values)))
    return point


def _spread(dimension: Dimension) -> list[Any]:
    """Values of a dimension, evenly spaced as the search moves it."""
    parameter = dimension.parameter
    low, high = parameter.low, parameter.high
    if parameter.kind == "categorical":
        return list(parameter.choices)
    if parameter.kind == "int" and not parameter.log:
        return [dimension.decode(value) for value in range(int(low), int(high) + 1)]
    shares = [index / 100 for index in range(101)]
    if parameter.log:
        return [dimension.decode(low * (high / low) ** share) for share in shares]
    return [dimension.decode(low + share * (high - low)) for share in shares]
