"""Sides and orders are balanced, random and the same for a seed."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtune.preference.design import plan, sides


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 33), st.integers(0, 2**32))
def test_sides_are_balanced_by_annotator_and_by_question(annotators: int, questions: int, seed: int) -> None:
    table = sides(annotators, questions, np.random.default_rng(seed))
    assert np.all(np.abs(2 * table.sum(axis=1) - questions) <= 1)
    assert np.all(np.abs(2 * table.sum(axis=0) - annotators) <= 1)


def test_sides_of_two_cells_hang_together_no_more_than_balance_asks() -> None:
    tables = np.array([sides(6, 8, np.random.default_rng(seed)) for seed in range(300)])
    assert abs(tables.mean() - 0.5) < 1e-9
    signs = 2.0 * tables - 1
    assert abs((signs[:, 0, 0] * signs[:, 5, 6]).mean()) < 0.2  # two patterns alone would make it 1
    assert abs((signs[:, 0, 0] * signs[:, 0, 1]).mean() + 1 / 7) < 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 20), st.integers(2, 4), st.integers(0, 2**32))
def test_everybody_judges_every_question_once(annotators: int, questions: int, models: int, seed: int) -> None:
    plans = plan(annotators, questions, models, seed)
    assert plans == plan(annotators, questions, models, seed)
    assert len(plans) == annotators
    for tasks in plans:
        assert sorted(task.question for task in tasks) == list(range(questions))
        assert all(task.left != task.right for task in tasks)


def test_orders_differ_between_annotators() -> None:
    orders = {tuple(task.question for task in tasks) for tasks in plan(10, 30, 2, 0)}
    assert len(orders) == 10


def test_several_models_are_paired_evenly() -> None:
    plans = plan(9, 30, 3, 1)
    pairs = Counter(frozenset((task.left, task.right)) for task in itertools.chain(*plans))
    assert set(pairs.values()) == {90}
    for tasks in plans:
        assert set(Counter(frozenset((task.left, task.right)) for task in tasks).values()) == {10}
