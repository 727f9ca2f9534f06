"""A search space as a Gaussian process sees it: rows of coordinates in, features in [0, 1] out.

Coordinates are those of `Encoding`. Features are of what they decode to, so that points which are the same have the
same features. A category is one of its columns, any two of them at distance 1 whatever their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import Knowledge

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

WIDE = 10.0  # high over low from which a linear range may be seen in logarithms
FINITE = 1000  # points of a space that are looked at one by one


class Cube:
    """The features of an encoding's coordinates.

    Attributes:
        encoding: see there. lower, upper: bounds of the coordinates.
        wide: variables on a linear scale that may be better seen on a logarithmic one.
        columns: for each feature the variable that it belongs to; the last one is learning rate x alpha, where that
            follows from several variables and `known` is given.
        known: what is known beforehand, where these are all of its variables.
    """

    def __init__(self, encoding: Encoding, known: Knowledge | None = None):
        self.encoding = encoding
        self.lower, self.upper = np.array(encoding.lower), np.array(encoding.upper)
        self._integer = np.array(encoding.integer, dtype=bool)
        distributions = list(encoding.space.values())
        self._counts = [len(d.choices) if isinstance(d, CategoricalDistribution) else 0 for d in distributions]
        self._log_integer = [i for i, d in enumerate(distributions) if isinstance(d, IntDistribution) and d.log]
        self._ends = [
            (d.low, d.high) if isinstance(d, FloatDistribution | IntDistribution) else None for d in distributions
        ]
        self.wide = tuple(
            index
            for index, d in enumerate(distributions)
            if isinstance(d, FloatDistribution | IntDistribution) and not d.log and 0 < WIDE * d.low <= d.high
        )
        self.columns: Indices = np.repeat(np.arange(len(distributions)), [max(count, 1) for count in self._counts])
        named = set(known.names) if known else set()
        self.known = known if named == encoding.space.keys() else None
        self._product = 0.0, 1.0
        if self.known and self.known.several:
            ends = self.known.product(self.values(np.stack([self.lower, self.upper])))
            self._product = float(ends[0]), float(ends[1] - ends[0])
            self.columns = np.append(self.columns, len(distributions))

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def finite(self) -> bool:
        """Whether all points are looked at one by one."""
        return self.encoding.size <= FINITE

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """Coordinates, (points, variables)."""
        return np.array([self.encoding.encode(point) for point in points]).reshape(len(points), len(self))

    def points(self) -> Array:
        """All points of a finite space."""
        return np.array(list(self.encoding.points())).reshape(-1, len(self))

    def at(self, shares: Array) -> Array:
        """Coordinates from shares between 0 and 1, (points, variables); whole numbers by equal parts."""
        span = self.upper - self.lower
        whole = np.minimum(self.lower + np.floor(shares * (span + 1)), self.upper)
        return self.snapped(np.where(self._integer, whole, self.lower + shares * span))

    def snapped(self, rows: Array) -> Array:
        """The nearest coordinates that a point has."""
        rows = np.clip(rows, self.lower, self.upper)
        rows = np.where(self._integer, np.round(rows), rows)
        for index in self._log_integer:
            low, high = self._ends[index] or (1, 1)
            rows[:, index] = np.log10(np.clip(np.round(10.0 ** rows[:, index]), low, high))
        return rows

    def moved(self, rows: Array, rng: np.random.Generator) -> Array:
        """Rows with some of their variables changed: by steps of all sizes, categories to any other."""
        shape = rows.shape
        size = 10.0 ** rng.uniform(-2.5, -0.3, (shape[0], 1))
        step = rng.normal(size=shape) * size * (self.upper - self.lower)
        whole = np.where(np.abs(step) < 1, np.sign(step), step)  # a step that rounding would undo
        step = np.where(self._integer, whole, step)
        chosen = rng.random(shape) < rng.choice([1.0 / shape[1], 0.5, 1.0], (shape[0], 1))
        chosen[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
        found = np.where(chosen, rows + step, rows)
        for index, count in enumerate(self._counts):
            other = rng.integers(max(count, 1), size=shape[0])
            keep = rng.random(shape[0]) < 0.5
            if count:
                found[:, index] = np.where(chosen[:, index] & ~keep, other, rows[:, index])
        return self.snapped(found)

    def features(self, rows: Array, logged: Sequence[int] = ()) -> Array:
        """Features, (points, columns); the `logged` ones of `wide` on a logarithmic scale."""
        unit = (rows - self.lower) / (self.upper - self.lower)
        blocks: list[Array] = []
        for index, count in enumerate(self._counts):
            column = unit[:, index]
            if count:
                blocks.append(np.sqrt(0.5) * (rows[:, index, None] == np.arange(count)))
                continue
            if index in logged:
                low, high = self._ends[index] or (1, 1)
                column = np.log1p(column * (high - low) / low) / np.log(high / low)
            blocks.append(column[:, None])
        if self.known and self.known.several:
            low, width = self._product
            blocks.append((self.known.product(self.values(rows))[:, None] - low) / width)
        return np.concatenate(blocks, axis=1)

    def values(self, rows: Array) -> dict[str, Array]:
        """Values by name of the variables that are numbers."""
        found = dict[str, Array]()
        for index, (name, d) in enumerate(self.encoding.space.items()):
            column = rows[:, index]
            match d:
                case FloatDistribution() | IntDistribution() if d.log:
                    column = 10.0**column
                    found[name] = np.round(column) if isinstance(d, IntDistribution) else column
                case FloatDistribution() | IntDistribution():
                    found[name] = column if d.step is None else d.low + np.round(column) * d.step
        return found

    def keys(self, rows: Array) -> list[tuple[float, ...]]:
        """What the same points have in common."""
        return [tuple(key) for key in (np.round((rows - self.lower) / (self.upper - self.lower), 9) + 0.0).tolist()]
