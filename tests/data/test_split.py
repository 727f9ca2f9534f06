import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.data.split import allocate, choose, draw, group, largest, side_sizes, smaller, split
from meshtune.errors import InputError

# The paper's sources: Alpaca and Dolly.
SIZES, SHARES = [52002, 15011], [0.7, 0.3]
SOURCES, GROUPS = np.repeat([0, 1], SIZES), np.arange(67013)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_union_of_the_papers_sources() -> None:
    chosen = choose("union", SIZES, SHARES, None, rng())
    assert len(chosen) == 67013
    counts = np.bincount(SOURCES[chosen])
    assert (counts / counts.sum()).round(3).tolist() == [0.776, 0.224]


def test_cap_of_the_papers_sources() -> None:
    chosen = choose("cap", SIZES, SHARES, None, rng())
    assert len(chosen) == len(set(chosen.tolist())) == 50036
    assert np.bincount(SOURCES[chosen]).tolist() == [35025, 15011]


def test_repeat_of_the_papers_sources() -> None:
    sizes = side_sizes(67013, 0.2, 0.0, exact=True)
    assert sizes == (53610, 13402, 0)
    train, validation, test = draw(SOURCES, GROUPS, SHARES, sizes, rng())
    assert [len(side) for side in (train, validation, test)] == [53610, 13402, 0]
    assert np.bincount(SOURCES[train]).tolist() == [37527, 16083]
    assert np.bincount(SOURCES[validation]).tolist() == [9381, 4021]
    assert not set(train.tolist()) & set(validation.tolist())
    alpaca, dolly = train[SOURCES[train] == 0], train[SOURCES[train] == 1]
    # What the authors' draw had: 29 % of its Alpaca and 39 % of its Dolly rows are repeats, half of Alpaca is undrawn.
    assert 1 - len(np.unique(alpaca)) / len(alpaca) == pytest.approx(0.29, abs=0.01)
    assert 1 - len(np.unique(dolly)) / len(dolly) == pytest.approx(0.39, abs=0.01)
    assert 1 - len(np.unique(alpaca)) / 52002 == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize("policy", ["union", "cap"])
def test_rows_limits_the_mix_at_its_shares(policy: str) -> None:
    chosen = choose(policy, SIZES, SHARES, 1000, rng())  # type: ignore[arg-type]
    assert np.bincount(SOURCES[chosen]).tolist() == ([776, 224] if policy == "union" else [700, 300])


def test_a_limit_above_the_largest_mix_is_none() -> None:
    for policy, shares in (("cap", SHARES), ("union", None)):
        limited = choose(policy, SIZES, shares, 70000, rng())  # type: ignore[arg-type]
        assert np.array_equal(limited, choose(policy, SIZES, shares, None, rng()))  # type: ignore[arg-type]


def test_repeat_that_leaves_nothing_undrawn_says_what_can_be_had() -> None:
    sources = np.repeat([0, 1], [1000, 3])
    with pytest.raises(InputError, match=r"used up all 3 rows of source 2.*gives 6 rows"):
        draw(sources, np.arange(1003), [0.5, 0.5], (800, 200, 0), rng())


def test_repeat_keeps_equal_texts_on_one_side() -> None:
    groups = np.repeat(np.arange(300), 2)  # each text twice
    sides = draw(np.zeros(600, dtype=np.int64), groups, [1.0], (200, 60, 60), rng())
    texts = [set(groups[side].tolist()) for side in sides]
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_the_draw_depends_on_the_seed_alone() -> None:
    one, two = (choose("cap", [90, 40], SHARES, None, rng()) for _ in range(2))
    assert one.tolist() == two.tolist()
    assert one.tolist() != choose("cap", [90, 40], SHARES, None, np.random.default_rng(1)).tolist()


@given(st.integers(0, 10**6), st.lists(st.floats(0.001, 1), min_size=1, max_size=6))
def test_allocation_adds_up_and_is_nearly_exact(total: int, shares: list[float]) -> None:
    counts = allocate(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1 + 1e-5


@given(st.lists(st.tuples(st.integers(1, 10**5), st.floats(0.01, 1)), min_size=1, max_size=5))
def test_the_largest_mix_can_be_had_and_no_larger_one(pairs: list[tuple[int, float]]) -> None:
    sizes, shares = [size for size, _ in pairs], [share for _, share in pairs]
    most = largest(sizes, shares)
    assert all(count <= size for count, size in zip(allocate(most, shares), sizes, strict=True))
    assert any((most + 1) * share / sum(shares) > size - 1e-3 for size, share in pairs)


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
    with pytest.raises(
        InputError, match=r"equal texts stay on one side, and of the 2 groups.* Raise `data\.validation`"
    ):
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
