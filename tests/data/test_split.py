import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.data.split import group, side_sizes, smaller, split
from meshtune.errors import InputError


def test_sizes_by_share_and_by_number() -> None:
    assert side_sizes(1000, 0.1, 0.1, exact=False) == (800, 100, 100)
    assert side_sizes(1000, 50, 0, exact=False) == (950, 50, 0)
    assert side_sizes(1000, 50, 0.1, exact=True) == (850, 50, 100)
    assert side_sizes(100, 0.29, 0.0, exact=False) == (71, 29, 0)
    assert side_sizes(100, None, 0.1, exact=False) == (90, 0, 10)


@pytest.mark.parametrize(
    ("total", "validation", "test", "message"),
    [
        (9, 0.1, 0.0, r"`data.validation: 0.1` of 9 rows leaves no validation row"),
        (100, 60, 40, "no row is left to train on: of 100 rows, validation takes 60 and test 40"),
        (100, 60, 0.5, "no row is left to train on"),
        (0, 0.1, 0.1, "leaves no validation row"),
    ],
)
def test_sides_that_cannot_be_had(total: int, validation: float, test: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        side_sizes(total, validation, test, exact=False)


def test_texts_are_equal_whatever_their_white_space() -> None:
    texts = ["a b\nc", "  a b\r\nc \n", "a  b c", "a bc", "A b c"]
    assert group(texts).tolist() == [0, 0, 0, 1, 2]


@given(st.data())
def test_no_text_on_two_sides_and_no_row_lost(data: st.DataObject) -> None:
    count = data.draw(st.integers(20, 120))
    groups = np.array(data.draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)))
    sources = np.sort(np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))))
    validation, test = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 8))
    seed = data.draw(st.integers(0, 99))
    try:
        sides = split(sources, groups, validation, test, np.random.default_rng(seed))
    except InputError:
        return  # only where repeats leave nothing for a side: the next test holds that case
    assert sorted(np.concatenate(sides).tolist()) == list(range(count))
    texts = [set(groups[side].tolist()) for side in sides]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert 1 <= len(sides[1]) <= validation
    assert len(sides[2]) <= test
    again = split(sources, groups, validation, test, np.random.default_rng(seed))
    assert [side.tolist() for side in again] == [side.tolist() for side in sides]


def test_a_side_that_repeats_leave_empty_is_a_fault() -> None:
    with pytest.raises(InputError, match=r"equal texts stay on one side, and of the 2 groups that 30 rows make, none"):
        split(np.zeros(30, np.int64), np.repeat([0, 1], 15), 5, 0, np.random.default_rng(0))


def test_sides_have_the_shares_of_the_mix() -> None:
    sources = np.repeat([0, 1], [700, 300])
    train, validation, test = split(sources, np.arange(1000), 100, 50, np.random.default_rng(0))
    assert [np.bincount(sources[side]).tolist() for side in (train, validation, test)] == [
        [595, 255],
        [70, 30],
        [35, 15],
    ]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 70))
def test_a_smaller_side_has_so_many_rows_at_the_same_shares(numbers: list[int], count: int) -> None:
    sources = np.array(numbers, dtype=np.int64)
    kept = smaller(sources, count, np.random.default_rng(0))
    assert len(set(kept.tolist())) == len(kept) == min(count, len(sources))
    assert kept.tolist() == sorted(kept.tolist())
    for source in range(3):
        share = np.count_nonzero(sources == source) * len(kept) / len(sources)
        assert abs(np.count_nonzero(sources[kept] == source) - share) < 1
