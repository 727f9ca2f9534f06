import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.data.mixture import allocate, choose, draw, largest
from meshtune.data.split import side_sizes
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
