"""Points that are allowed by what is known of them before they are evaluated: how many there are, and one at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
