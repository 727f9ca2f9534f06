"""The paired interval: coverage, limiting cases, refusals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.errors import InputError
from meshtune.selection.statistics import mean_interval, paired_difference, share_difference, share_interval
from meshtune.training.loss import mean_loss

ROWS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=2, max_size=30)


def test_the_difference_is_that_of_the_token_weighted_means() -> None:
    ours, theirs = [(2.0, 1), (30.0, 10)], [(3.0, 1), (20.0, 10)]
    assert paired_difference(ours, theirs).mean == pytest.approx(mean_loss(ours) - mean_loss(theirs))


@given(ROWS)
def test_a_model_against_itself_is_no_difference(rows: list[tuple[float, int]]) -> None:
    difference = paired_difference(rows, rows)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.beyond_noise


@given(ROWS, st.randoms())
def test_turned_around_it_changes_its_sign(rows: list[tuple[float, int]], chance: object) -> None:
    other = [(total + chance.random(), count) for total, count in rows]  # type: ignore[attr-defined]
    one, two = paired_difference(rows, other), paired_difference(other, rows)
    assert one.mean == pytest.approx(-two.mean)
    assert one.low == pytest.approx(-two.high)


def test_equal_counts_give_the_usual_paired_t_interval() -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    a, b = generator.normal(2, 1, 40), generator.normal(1.8, 1, 40)
    difference = paired_difference([(x, 1) for x in a], [(y, 1) for y in b])
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_covers_the_truth_in_95_percent() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        counts = generator.integers(1, 60, 60)
        noise = generator.normal(0.1, 0.5, 60) * counts  # true difference 0.1 a token, whatever the row's length
        difference = paired_difference(
            [(n, int(c)) for n, c in zip(noise, counts, strict=True)], [(0.0, int(c)) for c in counts]
        )
        assert difference.low is not None
        assert difference.high is not None
        covered += difference.low <= 0.1 <= difference.high
    assert 925 <= covered <= 972


def test_one_row_says_nothing() -> None:
    difference = paired_difference([(1.0, 2)], [(2.0, 2)])
    assert (difference.low, difference.high) == (None, None)
    assert not difference.beyond_noise


def test_other_rows_are_refused() -> None:
    with pytest.raises(InputError, match="not measured on the same rows"):
        paired_difference([(1.0, 2)], [(2.0, 3)])


def test_the_interval_of_a_mean_is_students() -> None:
    mean = mean_interval([1.0, 2.0, 3.0])
    assert (mean.mean, mean.count) == (2.0, 3)
    assert mean.error == pytest.approx(1 / math.sqrt(3))
    assert mean.high - mean.mean == pytest.approx(4.302653 / math.sqrt(3))  # t of 2 degrees of freedom
    assert mean.mean - mean.low == pytest.approx(mean.high - mean.mean)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert math.isnan(mean_interval([1.0]).error)
    assert mean_interval([1.0]).mean == 1.0
    with pytest.raises(InputError):
        mean_interval([])


def test_a_share_has_the_interval_of_wilson_and_none_of_20_is_no_certainty() -> None:
    from scipy import stats

    for right, items in ((0, 20), (1, 20), (7, 20), (20, 20), (81, 263)):
        wilson = stats.binomtest(right, items).proportion_ci(0.95, method="wilson")
        assert share_interval(right / items, items) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    assert share_interval(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)


def test_a_difference_of_shares_is_newcombes() -> None:
    """The examples of his Table II (Statistics in Medicine 17, 1998, 873-890), method 10."""
    examples = {(56, 70, 48, 80): (0.0524, 0.3339), (5, 56, 0, 29): (-0.0381, 0.1926), (10, 10, 0, 10): (0.6075, 1.0)}
    for (mine, items, theirs, their_items), ends in examples.items():
        found = share_difference(mine / items, theirs / their_items, items, their_items)
        assert found == pytest.approx(ends, abs=5e-5)
    assert share_difference(0, 0, 20, 20) == pytest.approx((-0.1611, 0.1611), abs=5e-5)
