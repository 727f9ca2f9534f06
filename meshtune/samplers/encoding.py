"""Optuna's distributions as NOMAD's variables, and back.

Reals keep their value. Logarithmic ones, integers among them, are reals: the logarithm to base 10, rounded where it is
decoded. Other integers and steps count from 0, and so do categories, in the order in which they are given: neighbours
in that order are near to each other for MADS. A boolean is a category of two.

Several coordinates may decode to one point. What makes two points the same is their `key`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from meshtune.errors import SamplerError

Point = tuple[float, ...]


class Encoding:
    """A search space as NOMAD sees it.

    Args:
        space: distributions by name; those in which there is nothing to choose are left out.

    Attributes:
        space: the distributions, by name in alphabetical order. integer: whether each variable is a whole number.
        lower, upper: bounds of the variables, lower < upper.

    Raises:
        SamplerError: a distribution is none of Optuna's.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]):
        ends = {name: _bounds(space[name]) for name in sorted(space) if not space[name].single()}
        ends = {name: (low, high) for name, (low, high) in ends.items() if low < high}
        self.space = {name: space[name] for name in ends}
        self.integer = tuple(_whole(distribution) for distribution in self.space.values())
        self.lower: Point = tuple(low for low, _ in ends.values())
        self.upper: Point = tuple(high for _, high in ends.values())
        self._digits = tuple(9 - min(0, math.floor(math.log10(high - low))) for low, high in ends.values())

    @property
    def size(self) -> float:
        """Number of points, infinite where a variable is real."""
        if not all(self.integer):
            return math.inf
        return math.prod(high - low + 1 for low, high in zip(self.lower, self.upper, strict=True))

    def name(self, fixed: Mapping[str, Any] | None = None) -> str:
        """What notes on trials call the space, with the values by name that are fixed beside it."""
        described = repr([(name, distribution_to_json(distribution)) for name, distribution in self.space.items()])
        if fixed:
            described += repr(sorted(fixed.items()))
        return hashlib.sha256(described.encode()).hexdigest()[:8]

    def points(self) -> Iterator[Point]:
        """All points of a finite space."""
        return itertools.product(*(map(float, range(int(h) + 1)) for h in self.upper))

    @property
    def middle(self) -> Point:
        """The middle of the space."""
        return tuple(
            float((int(low) + int(high)) // 2) if integer else (low + high) / 2
            for low, high, integer in zip(self.lower, self.upper, self.integer, strict=True)
        )

    def at(self, shares: Sequence[float]) -> Point:
        """Coordinates from shares between 0 and 1, whole numbers by equal parts."""
        ends = zip(shares, self.lower, self.upper, self.integer, strict=True)
        return tuple(
            min(low + math.floor(share * (high - low + 1)), high) if integer else float(low + share * (high - low))
            for share, low, high, integer in ends
        )

    def has(self, params: Mapping[str, Any]) -> bool:
        """Whether every variable has a value that lies inside its distribution."""
        return all(name in params and _inside(distribution, params[name]) for name, distribution in self.space.items())

    def encode(self, params: Mapping[str, Any]) -> Point:
        """Coordinates of a point that the space `has`; reals with 15 digits, as NOMAD's cache holds them."""
        ends = zip(self.space.items(), self.lower, self.upper, strict=True)
        return tuple(_to_number(params[name], distribution, low, high) for (name, distribution), low, high in ends)

    def decode(self, point: Sequence[float]) -> dict[str, Any]:
        """Values by name, inside the distributions."""
        named = zip(point, self.space.items(), strict=True)
        return {name: _from_number(number, distribution) for number, (name, distribution) in named}

    def key(self, params: Mapping[str, Any]) -> Point:
        """What points have in common that are the same: 9 digits, since decoding costs the last few.

        They are counted from the width of the range where that is below 1.
        """
        rounded = zip(self.encode(params), self._digits, strict=True)
        return tuple(round(coordinate, digits) + 0.0 for coordinate, digits in rounded)  # + 0.0 turns -0.0 into 0.0


def _inside(distribution: BaseDistribution, value: Any) -> bool:
    try:
        internal = distribution.to_internal_repr(value)
    except (ValueError, TypeError):  # no category, no number
        return False
    return not math.isnan(internal) and distribution._contains(internal)


def _whole(distribution: BaseDistribution) -> bool:
    match distribution:
        case FloatDistribution():
            return distribution.step is not None
        case IntDistribution():
            return not distribution.log
    return True


def _bounds(distribution: BaseDistribution) -> tuple[float, float]:
    match distribution:
        case CategoricalDistribution():
            return 0.0, float(len(distribution.choices) - 1)
        case IntDistribution() | FloatDistribution() if distribution.log:
            return math.log10(distribution.low), math.log10(distribution.high)
        case IntDistribution():
            return 0.0, float((distribution.high - distribution.low) // distribution.step)
        case FloatDistribution() if distribution.step is not None:
            return 0.0, float(round((distribution.high - distribution.low) / distribution.step))
        case FloatDistribution():
            return float(distribution.low), float(distribution.high)
    raise SamplerError(f"a distribution that cannot be searched: {distribution}")


def _to_number(value: Any, distribution: BaseDistribution, low: float, high: float) -> float:
    match distribution:
        case CategoricalDistribution():
            return float(distribution.to_internal_repr(value))
        case IntDistribution() if not distribution.log:
            return float((int(value) - distribution.low) // distribution.step)
        case FloatDistribution() if distribution.step is not None:
            return float(round((value - distribution.low) / distribution.step))
    log = isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log
    number = math.log10(value) if log else float(value)
    return min(max(float(f"{number:.15g}"), low), high)


def _from_number(number: float, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[round(number)]
        case IntDistribution() if distribution.log:
            return min(max(round(10.0**number), distribution.low), distribution.high)
        case IntDistribution():
            return distribution.low + round(number) * distribution.step
        case FloatDistribution() if distribution.step is not None:
            return min(distribution.low + round(number) * distribution.step, distribution.high)
        case FloatDistribution():
            value = 10.0**number if distribution.log else number + 0.0  # NOMAD knows -0.0
            return min(max(value, distribution.low), distribution.high)
    raise SamplerError(f"a distribution that cannot be searched: {distribution}")
