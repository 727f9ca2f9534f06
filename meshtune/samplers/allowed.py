"""What is allowed: arguments of our own samplers, and points by what is known of them before they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from meshtune.errors import SamplerError
from meshtune.samplers.encoding import Encoding

Allows = Callable[[dict[str, Any]], bool]  # of a point, by the names of Optuna's distributions

COUNTED = 10_000  # points of a space that are all asked; of a larger one as many are drawn
DRAWS = 10_000  # to find one


def share(space: Mapping[str, BaseDistribution], allows: Allows, seed: int = 0) -> tuple[float, bool]:
    """The share of a space's points that are allowed, and whether it is exact or of random points."""
    encoding = Encoding(space)
    if encoding.size <= COUNTED:
        found = [allows(encoding.decode(point)) for point in encoding.points()]
        return sum(found) / len(found), True
    rng = np.random.default_rng(seed)
    found = [allows(encoding.decode(encoding.at(row.tolist()))) for row in rng.random((COUNTED, len(encoding.space)))]
    return sum(found) / len(found), False


def draw(space: Mapping[str, BaseDistribution], allows: Allows, rng: np.random.Generator) -> dict[str, Any]:
    """A random point that is allowed. Raises SamplerError where none is found."""
    encoding = Encoding(space)
    for _ in range(DRAWS):
        point = encoding.decode(encoding.at(rng.random(len(encoding.space)).tolist()))
        if allows(point):
            return point
    raise SamplerError(
        f"none of {DRAWS:,} random points keeps the constraints that are known before training: widen the constraints,"
        " or narrow the space to where they hold"
    )


def check(
    *,
    least: Mapping[str, tuple[int | None, int]],
    words: Mapping[str, tuple[str, Sequence[str]]],
    hidden_constraints: Collection[str],
    x0: Mapping[str, Any] | None,
    space: Mapping[str, BaseDistribution] | None,
) -> None:
    """Raise ValueError with all that is not allowed.

    Args:
        least: arguments by name with the least that they may be; None is allowed. words: with those that are allowed.
        x0: values by name; looked at where the `space` is known.
    """
    faults = [
        f"{name} is {value!r}; it is a whole number, at least {low}"
        for name, (value, low) in least.items()
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < low)
    ]
    for name, (value, (*others, last)) in words.items():
        if value not in (*others, last):
            faults.append(f"{name} is {value!r}; allowed are {', '.join(map(repr, others))} and {last!r}")
    if isinstance(hidden_constraints, str):
        faults.append(f"hidden_constraints is {hidden_constraints!r}; it is a list of names: [{hidden_constraints!r}]")
    if x0 and space is not None:
        faults += [f"x0 names {name!r}, which is not in the search space" for name in x0 if name not in space]
        faults += outside(x0, space)
    if faults:
        raise ValueError("; ".join(faults))


def start_point(x0: Mapping[str, Any], encoding: Encoding) -> dict[str, Any]:
    """The start by name: what is given, and the middle of the space for the rest. Raises ValueError where it lies
    outside.
    """
    if faults := outside(x0, encoding.space):
        raise ValueError("; ".join(faults))
    return encoding.decode(encoding.middle) | {name: value for name, value in x0.items() if name in encoding.space}


def outside(x0: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> list[str]:
    """What is said of the values of a start point that lie outside their distributions; other names are passed over."""
    return [
        f"x0 has {name}={value!r}, which is outside {space[name]}"
        for name, value in x0.items()
        if name in space and not Encoding({name: space[name]}).has({name: value})
    ]
