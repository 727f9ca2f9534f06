"""Optuna's distributions as NOMAD's variables, and back.

Reals keep their value, logarithmic ones their logarithm to base 10; integers, steps and categories count from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from meshtune.errors import SamplerError
from meshtune.samplers.nomad import Point


def key(point: Sequence[float]) -> Point:
    """What makes two points the same: coordinates to 9 digits, since decoding and encoding costs the last few."""
    return tuple(round(coordinate, 9) + 0.0 for coordinate in point)  # + 0.0 turns -0.0 into 0.0


def whole(distribution: BaseDistribution) -> bool:
    """Whether NOMAD sees an integer."""
    return not isinstance(distribution, FloatDistribution) or distribution.step is not None


def bounds(distribution: BaseDistribution) -> tuple[float, float]:
    """The bounds of NOMAD's variable. Raises SamplerError on a distribution that MADS does not know."""
    match distribution:
        case CategoricalDistribution():
            return 0.0, float(len(distribution.choices) - 1)
        case IntDistribution():
            return 0.0, float((distribution.high - distribution.low) // distribution.step)
        case FloatDistribution() if distribution.step is not None:
            return 0.0, float(round((distribution.high - distribution.low) / distribution.step))
        case FloatDistribution() if distribution.log:
            return math.log10(distribution.low), math.log10(distribution.high)
        case FloatDistribution():
            return distribution.low, distribution.high
    raise SamplerError(f"MADS cannot search {distribution}")


def to_number(value: Any, distribution: BaseDistribution) -> float:
    """NOMAD's coordinate, inside the bounds; reals with 15 digits, as NOMAD's cache holds them."""
    match distribution:
        case CategoricalDistribution():
            return float(distribution.choices.index(value))
        case IntDistribution():
            return float((int(value) - distribution.low) // distribution.step)
        case FloatDistribution() if distribution.step is not None:
            return float(round((value - distribution.low) / distribution.step))
    low, high = bounds(distribution)
    number = math.log10(value) if isinstance(distribution, FloatDistribution) and distribution.log else float(value)
    return min(max(float(f"{number:.15g}"), low), high)


def from_number(number: float, distribution: BaseDistribution) -> Any:
    """The parameter's value, inside the distribution."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices[round(number)]
        case IntDistribution():
            return distribution.low + round(number) * distribution.step
        case FloatDistribution() if distribution.step is not None:
            return min(distribution.low + round(number) * distribution.step, distribution.high)
        case FloatDistribution():
            value = 10.0**number if distribution.log else number + 0.0  # NOMAD knows -0.0
            return min(max(value, distribution.low), distribution.high)
    raise SamplerError(f"MADS cannot search {distribution}")


def ranges(numbers: Sequence[int]) -> list[list[int]]:
    """[0, 1, 2, 5] as [[0, 2], [5, 5]]: attributes stay small."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
