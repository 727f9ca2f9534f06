"""Racing: orders and rounds, chances in limiting cases, who leaves, and whole races over known truths."""

import numpy as np
import pytest

from meshtune.selection import racing
from meshtune.selection.measured import POINTS, Array, of_answers, whole_scores
from meshtune.selection.racing import Field, at_most, chances, leaving, order, rounds
from meshtune.selection.rules import Rule, merits, winners


def answers(skill: Array, items: int, seed: int) -> Array:
    """Right and wrong answers of candidates that share the items' difficulty."""
    chance = np.random.default_rng(seed)
    return POINTS * (skill[:, None] + chance.normal(size=items) + chance.normal(size=(len(skill), items)) > 0)


def field(name: str, values: Array, asked: int, groups: int = 1) -> Field:
    """A benchmark of which everybody was asked the first so many items."""
    seen = np.where(np.arange(values.shape[1]) < asked, values, np.nan)
    return Field(name, seen, np.arange(values.shape[1]) % groups)


def test_an_order_spreads_groups_evenly_and_depends_on_nothing_else() -> None:
    groups = ["a"] * 60 + ["b"] * 30 + ["c"] * 2
    found = order("x", groups, 0)
    assert sorted(found) == list(range(92))
    assert {groups[number] for number in found[:3]} == {"a", "b", "c"}
    first = [groups[number] for number in found[:46]]
    assert first.count("a") == pytest.approx(30, abs=2)
    assert found == order("x", groups, 0)
    assert found != order("x", groups, 1)
    assert found != order("y", groups, 0)


def test_rounds_grow_to_all_items() -> None:
    assert rounds(30) == [30]
    assert rounds(164)[:3] == [40, 52, 68]
    assert rounds(164)[-1] == 164
    assert rounds(6000, groups=27)[0] == 480
    assert rounds(200, groups=27)[0] == 54
    assert all(a < b for a, b in zip(rounds(5000)[:-1], rounds(5000)[1:], strict=True))


def test_of_all_items_nothing_is_left_to_chance() -> None:
    values = answers(np.array([0.5, 0.0, -0.5]), 300, 0)
    assert chances([field("x", values, 300)]) == pytest.approx([1, 0, 0])
    twice = np.vstack([values[:1], values[:1], values[2:]])
    assert chances([field("x", twice, 300)]) == pytest.approx([0.5, 0.5, 0])


def test_chances_sharpen_as_answers_come_in() -> None:
    values = answers(np.array([0.4, 0.0, 0.0, -2.0]), 400, 1)
    found = [chances([field("x", values, asked), field("y", values, asked)])[0] for asked in (40, 150, 350)]
    assert found == sorted(found)
    assert chances([field("x", values, 40)])[3] < 0.01
    again = chances([field("x", values, 40)], seed=5)
    assert np.array_equal(again, chances([field("x", values, 40)], seed=5))


def test_one_that_left_still_counts_in_the_ranks() -> None:
    values = answers(np.array([1.0, 0.6, 0.0]), 400, 2)
    seen = np.where(np.arange(400) < np.array([[300], [300], [60]]), values, np.nan)
    found = chances([Field("x", seen, np.zeros(400, np.int64))])
    assert found.sum() == pytest.approx(1)
    assert found[2] < 0.01
    assert found[0] > 0.9
    told = whole_scores(seen[:, :300], np.zeros(300, np.int64))
    assert told[2] == pytest.approx(values[2].mean(), abs=8)
    assert told[0] == pytest.approx(values[0, :300].mean())


def test_a_benchmark_without_signal_counts_for_nothing() -> None:
    tells, silent = answers(np.array([0.5, -0.5]), 300, 3), answers(np.array([-0.8, -0.6]), 300, 4)
    fields = [field("x", tells, 200), Field("y", field("y", silent, 200).answers, np.zeros(300, np.int64), chance=60.0)]
    assert chances(fields)[0] > 0.99
    assert chances([fields[1]]) == pytest.approx([0.5, 0.5])
    assert chances([field("few", tells[:, :19], 19)]) == pytest.approx([0.5, 0.5])


def test_groups_of_one_item_so_far() -> None:
    values = answers(np.array([1.0, 0.0]), 270, 5)
    found = chances([field("x", values, 27, groups=27)])
    assert 0.5 < found[0] < 1
    some = np.where(np.arange(270) < 20, values, np.nan)  # of seven groups there is no answer yet
    assert 0.5 < chances([Field("x", some, np.arange(270) % 27)])[0] < 1


def test_who_leaves() -> None:
    found = np.array([0.9, 0.001, 0.015, 0.084])
    assert leaving(found, [0, 1, 2, 3], 0.0) == [1, 2]  # of .05 a third, then of what is left half
    assert leaving(found, [0, 1, 2, 3], 0.04) == [1]
    assert leaving(np.array([0.5, 0.5]), [0, 1], 0.0) == []
    assert leaving(np.array([0.0, 0.0]), [0, 1], 0.0) == [0]
    assert leaving(np.array([1.0]), [0], 0.0) == []


def test_races_choose_as_scoring_everybody_does() -> None:
    """In so many of these at least; benchmarks/racing.py has the shares by setting."""
    same, shares = 0, []
    for seed in range(12):
        chance = np.random.default_rng(seed)
        skill = chance.normal(0, 0.25, 6)
        whole = [answers(skill, 300, 10 * seed + kind) for kind in range(2)]
        able, spent, asked = list(range(6)), 0.0, np.zeros(6, int)
        for step in rounds(300):
            asked[able] = step
            seen = [np.where(np.arange(300) < asked[:, None], values, np.nan) for values in whole]
            fields = [Field(str(kind), values, np.zeros(300, np.int64)) for kind, values in enumerate(seen)]
            found = chances(fields, seed=step)
            out = leaving(found, able, spent)
            spent += sum(at_most(float(found[number])) for number in out)
            able = [number for number in able if number not in out]
            if len(able) == 1:
                break
        assert spent <= racing.ERROR
        best = winners(merits(Rule(), np.stack([v.mean(axis=1) for v in whole], axis=1), ["0", "1"]))
        same += bool(best[max(able, key=lambda number: float(found[number]))])
        shares.append(asked.mean() / 300)
    assert same >= 11
    assert np.mean(shares) < 0.65


def test_answers_of_one_that_left_are_missed_of_nobody_else() -> None:
    told = {"a": {"1": 1.0, "2": 0.0, "3": 1.0}, "b": {"1": 0.0, "2": 0.0, "3": 1.0}, "c": {"1": 0.0, "2": 1.0}}
    found = of_answers("m", "M", told, partial=["c"])
    assert found.items == 3
    assert found.scores == pytest.approx([200 / 3, 100 / 3, 50 + 25])  # as much above the others' mean as on its items
    assert found.ids == ("1", "2", "3")
    assert found.answers is not None
    assert np.isnan(found.answers[2, 2])
