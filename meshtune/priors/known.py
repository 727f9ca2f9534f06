"""What is known of a LoRA study before its first trial, as samplers use it: points to begin with, and an expected loss.

It is a value out of the study's record: a later version that knows more changes nothing of a study that has begun. What
is expected of a point follows from learning rate x alpha and from the rank; of all others nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from meshtune.priors.effects import CORNER, MOST, WORST, Effects, Predicted
from meshtune.space.space import Dimension, Space

Array: TypeAlias = NDArray[np.float64]
Values = Mapping[str, Array]

DRAWS = 64
WIDER = 1.5  # as for the portfolio: the prior may be wrong
ALPHA = 32.0  # at which the known runs were


@dataclass(frozen=True)
class Known:
    """What is known.

    Attributes:
        space: of the study. means, deviations: of the effects (`priors.effects`). points: by the parameters' names, in
            the order in which they are tried, after the start.
    """

    space: Space
    means: Effects
    deviations: Effects
    points: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(
        cls, space: Space, expected: Predicted, portfolio: Sequence[Mapping[str, Any]], usual: Mapping[str, Any]
    ) -> Known | None:
        """Of a space, where neither rate nor product are fixed. `usual`: values of what the portfolio does not name."""
        if not {"step", "learning_rate"} & {dimension.name for dimension in space.dimensions}:
            return None
        points = list[Mapping[str, Any]]()
        for point in portfolio:
            if (placed := _placed(space, point, usual)) is not None and placed not in points:
                points.append(placed)
        return cls(space, expected.means, expected.deviations, tuple(points))

    def to_json(self) -> dict[str, Any]:
        """For the record; `from_json` reads it."""
        return {"means": list(self.means), "deviations": list(self.deviations), "points": list(map(dict, self.points))}

    @classmethod
    def from_json(cls, space: Space, value: Mapping[str, Any]) -> Known:
        """What was written."""
        means, deviations = (tuple(value[name]) for name in ("means", "deviations"))
        return cls(space, means, deviations, tuple(value["points"]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the space's parameters."""
        return tuple(parameter.name for parameter in self.space.parameters)

    @property
    def several(self) -> bool:
        """Whether the product follows from several variables, so that it is worth a coordinate of its own."""
        names = {dimension.name for dimension in self.space.dimensions}
        moves_alpha = bool(names & {"alpha", "scale"}) or ("scale" in self.space.fixed and "rank" in names)
        return "step" not in names and moves_alpha

    def product(self, values: Values) -> Array:
        """log10 of learning rate x alpha, of parameters by name."""
        return self._read(values)[0]

    def loss(self, values: Values) -> Array:
        """The log of the loss that is expected, over the task's least: the mean over what the task may be like."""
        product, rank = self._read(values)
        peak, steep, right, tilt, gain = self._draws.T[:, None, :]
        away = (np.log2(rank) - 6.0)[:, None]
        v = product[:, None] - peak - tilt * away
        fall = np.exp(steep) * (np.hypot(v, CORNER) - CORNER)
        rise = np.exp(np.minimum(np.exp(right) * np.maximum(v, 0.0) ** 2, MOST))
        mean: Array = (np.minimum(fall * rise, WORST) - gain * away).mean(axis=1)
        return mean

    @cached_property
    def _draws(self) -> Array:
        return np.array(Predicted(self.means, self.deviations).draws(DRAWS, wider=WIDER))

    def _read(self, values: Values) -> tuple[Array, Array]:
        """The log of the product, and the rank."""
        count = len(next(iter(values.values())))
        known = {name: np.full(count, float(value)) for name, value in self.space.fixed.items() if _number(value)}
        for dimension in self.space.dimensions:
            if dimension.name in ("rank", "alpha", "scale", "learning_rate", "step"):
                known[dimension.name] = _decoded(dimension, values[dimension.parameter.name])
        rank = known["rank"]
        if "step" in known:
            return np.log10(known["step"]), rank
        alpha = known["alpha"] if "alpha" in known else np.maximum(1.0, np.floor(known["scale"] * rank + 0.5))
        return np.log10(known["learning_rate"] * alpha), rank


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decoded(dimension: Dimension, values: Array) -> Array:
    match dimension.encoding:
        case "log2":
            found: Array = 2.0**values
            return found
        case "index":
            table: Array = np.array(dimension.values, dtype=np.float64)
            picked: Array = table[values.astype(int)]
            return picked
        case "plain":
            return values


def _placed(space: Space, point: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any] | None:
    """The nearest point of a space, with the same product of rate and alpha; None where something is not known."""
    by_name = {dimension.name: dimension for dimension in space.dimensions}
    values: dict[str, Any] = {**usual, **space.fixed}

    def near(name: str, value: float) -> float:
        if name in by_name:
            values[name] = _nearest(by_name[name], value)
        return float(values.get(name, value))

    product = point["learning_rate"] * point["alpha"]
    rank = near("rank", point["rank"])
    near("dropout", point["dropout"])
    near("step", product)
    given = "alpha" in by_name or "alpha" in space.fixed
    alpha = near("alpha", ALPHA) if given else near("scale", ALPHA / rank) * rank
    if "learning_rate" in by_name:
        near("alpha", product / near("learning_rate", product / alpha))
    try:
        return {each.parameter.name: each.encode(values[each.name]) for each in space.dimensions}
    except (KeyError, ValueError):
        return None


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))


def _nearest(dimension: Dimension, value: float) -> Any:
    """Of a dimension's values."""
    parameter = dimension.parameter
    if dimension.values:
        return min(dimension.values, key=lambda each: abs(_log(float(each)) - _log(value)))
    encoded = math.log2(value) if dimension.encoding == "log2" else value
    encoded = min(max(encoded, parameter.low), parameter.high)
    return dimension.decode(round(encoded) if parameter.kind == "int" else encoded)
