"""Hyperparameters: what may be searched, how the optimizer sees it, and how its numbers become hyperparameters.

The optimizer moves *parameters* (`rank_log2`, `scale_log2`, `dropout_index`, `step`); the record and all reports show
the decoded *hyperparameters* (rank, alpha, dropout, learning rate). Presets stand in `meshtune.presets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from meshtune.errors import Fault, InputError

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
                if value not in self.values:
                    raise ValueError(f"{value} is none of {', '.join(map(str, self.values))}")
                return self.values.index(value)
            case "log2":
                encoded: Any = math.log2(value) if value > 0 else -math.inf
            case "plain":
                encoded = value
        if self.parameter.kind == "categorical":
            if value not in self.parameter.choices:
                raise ValueError(f"{value} is none of {', '.join(map(str, self.parameter.choices))}")
            return value
        return self._inside(value, encoded)

    def _inside(self, value: Any, encoded: float) -> float | int:
        low, high = self.parameter.low, self.parameter.high
        slack = SLACK * max(abs(low), abs(high))
        whole = self.parameter.kind == "int"
        if whole and abs(encoded - round(encoded)) > SLACK:
            what = "a power of two" if self.encoding == "log2" else "a whole number"
            raise ValueError(f"{value} is not {what}")
        if not low - slack <= encoded <= high + slack:
            raise ValueError(f"{value:g} is outside {self.decode(low):g} to {self.decode(high):g}")
        return round(encoded) if whole else min(max(float(encoded), low), high)


@dataclass(frozen=True)
class Space:
    """The searched dimensions, the values of what is fixed, and whether they are LoRA's (then rank, alpha, dropout and
    learning rate are always there once decoded)."""

    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    lora: bool = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the optimizer moves."""
        return tuple(dimension.parameter for dimension in self.dimensions)

    def decode(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters of a point. `scale` becomes alpha (scale x rank), `step` the rate (step / alpha)."""
        values = {**self.fixed, **{d.name: d.decode(params[d.parameter.name]) for d in self.dimensions}}
        if not self.lora:
            return values
        if "scale" in values:
            values["alpha"] = values.pop("scale") * values["rank"]
        if "step" in values:
            values["learning_rate"] = values.pop("step") / values["alpha"]
        first = ("rank", "alpha", "dropout", "learning_rate")
        return {name: values[name] for name in first} | {n: v for n, v in values.items() if n not in first}

    def encode(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """The point of these hyperparameters. Raises InputError that names all that lies outside the space."""
        values = dict(hyperparameters)
        if self.lora:
            values["scale"] = values["alpha"] / values["rank"]
            values["step"] = values["learning_rate"] * values["alpha"]
        faults, params = [], {}
        for dimension in self.dimensions:
            if dimension.name not in values:
                faults.append(Fault("is not given", key=dimension.name))
                continue
            try:
                params[dimension.parameter.name] = dimension.encode(values[dimension.name])
            except ValueError as error:
                faults.append(Fault(f"{error} (the space's bounds)", key=dimension.name))
        for name, value in self.fixed.items():
            if name in values and not _same(values[name], value):
                faults.append(Fault(f"{values[name]} is not the space's fixed value {value}", key=name))
        if faults:
            raise InputError(faults)
        return params

    def contains(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether `encode` takes them."""
        try:
            self.encode(hyperparameters)
        except InputError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """Plain values that tell two spaces apart, for a study's fixed keys."""
        return {
            "searched": {
                d.name: {"encoding": d.encoding, **asdict(d.parameter), "values": list(d.values)}
                for d in self.dimensions
            },
            "fixed": dict(self.fixed),
        }


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


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=SLACK)
    return bool(a == b)
