"""The rank correlation: limiting cases, and how often its interval holds the true one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.selection.ranks import RankCorrelation, rank_correlation

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=0, max_size=12)


@given(PAIRS)
def test_it_is_symmetric_and_turns_with_one_side(pairs: list[tuple[int, int]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = rank_correlation(first, second)
    other = rank_correlation(second, first)
    for one, same in zip((found.rho, found.low, found.high), (other.rho, other.low, other.high), strict=True):
        assert one == (None if same is None else pytest.approx(same))
    turned = rank_correlation(first, [-b for b in second])
    if found.rho is not None:
        assert turned.rho == pytest.approx(-found.rho)
    if found.low is not None and found.high is not None:
        assert turned.low == pytest.approx(-found.high)
        assert turned.high == pytest.approx(-found.low)
        assert found.rho is not None
        assert -1 <= found.low <= found.rho <= found.high <= 1


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=9, unique=True))
def test_only_the_order_counts(values: list[float]) -> None:
    found = rank_correlation(values, [rank**3 for rank in np.argsort(np.argsort(values)).tolist()])
    assert found.rho == pytest.approx(1)
    assert found.high == 1
    assert found.low is not None
    assert found.low < 1


def test_too_few_or_all_alike() -> None:
    assert rank_correlation([], []) == RankCorrelation(None, None, None, 0)
    assert rank_correlation([1], [2]) == RankCorrelation(None, None, None, 1)
    assert rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) == RankCorrelation(None, None, None, 5)
    three = rank_correlation([1, 2, 3], [1, 3, 2])
    assert three.rho == pytest.approx(0.5)
    assert (three.low, three.high, three.points) == (None, None, 3)


def test_few_points_show_little_and_many_more() -> None:
    widths = []
    for count in (4, 5, 8, 20, 100):
        found = rank_correlation(range(count), range(count))
        assert found.low is not None
        widths.append(1 - found.low)
    assert all(wide > narrow for wide, narrow in itertools.pairwise(widths))
    assert widths[0] > 1 > widths[1]  # in the same order: four points prove nothing, five a little


@pytest.mark.parametrize(("count", "rho"), [(5, 0.8), (8, 0.0), (12, 0.8), (30, 0.5)])
def test_the_interval_holds_the_true_one(count: int, rho: float) -> None:
    """Normal pairs, whose rank correlation is 6/pi arcsin(rho/2)."""
    random = np.random.default_rng(count)
    true = 6 / math.pi * math.asin(rho / 2)
    held = 0
    for _ in range(400):
        first = random.normal(size=count)
        second = rho * first + math.sqrt(1 - rho**2) * random.normal(size=count)
        found = rank_correlation(first.tolist(), second.tolist())
        held += found.low is not None and found.high is not None and found.low <= true <= found.high
    assert held >= 0.91 * 400
