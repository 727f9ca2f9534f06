"""Which points are Pareto-optimal: the same for trials, for candidates and for resampled scores."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from meshtune.space import pareto as fronts
from meshtune.space.pareto import pareto


def by_hand(points: list[list[float]]) -> list[bool]:
    def beaten(mine: list[float]) -> bool:
        return any(o != mine and all(a >= b for a, b in zip(o, mine, strict=True)) for o in points)

    return [not beaten(mine) for mine in points]


def test_equal_points_all_stand_and_nothing_beaten_does() -> None:
    points = [[-1.0, 0.2], [-2.0, 0.3], [-2.0, 0.2], [-1.0, 0.2], [-3.0, 0.29], [-math.inf, 0.3], [-math.inf, 0.4]]
    assert pareto(np.array(points)).tolist() == by_hand(points) == [True, True, False, True, False, False, True]
    assert pareto(np.zeros((0, 2))).tolist() == []


def test_differences_that_are_none() -> None:
    points = np.array([[1.0, 2.0], [1.0 + 1e-12, 2.0], [0.5, 2.0]])
    assert pareto(points).tolist() == [False, True, False]
    assert pareto(points, same=1e-9).tolist() == [True, True, False]


@pytest.mark.parametrize("together", [1, 400, 4_000_000])
def test_many_tables_at_once(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(fronts, "AT_ONCE", together)
    tables: NDArray[np.float64] = np.random.default_rng(0).integers(0, 5, (3, 7, 8, 3)).astype(float)
    found = pareto(tables)
    assert found.shape == (3, 7, 8)
    for row in range(3):
        for table in range(7):
            assert found[row, table].tolist() == by_hand(tables[row, table].tolist())
