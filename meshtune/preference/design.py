"""Who sees which pair of answers, on which side, and in which order.

Guarantees: every annotator judges every question once; per annotator and per question each model (of two) stands left
as often as right, but for one where the number is odd; with several models the pairs are spread evenly over questions
and annotators. Orders and sides are random, drawn from one seed. Does not know what models are called.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SWAPS = 20  # tried per cell: enough that nothing is left of the pattern that they begin with


@dataclass(frozen=True)
class Task:
    """One judgement: number of the question, and numbers of the models that stand left and right."""

    question: int
    left: int
    right: int


def sides(annotators: int, questions: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the pair is turned round, (annotators, questions): rows and columns are half true, within one half.

    A chequered table is shuffled, then mixed by exchanges of 2 x 2 corners, which keep the sums of rows and columns.
    """
    table = (np.add.outer(np.arange(annotators), np.arange(questions)) % 2).astype(bool)
    table = table[generator.permutation(annotators)][:, generator.permutation(questions)]
    if bool(generator.integers(2)):
        table = ~table
    corners = generator.integers([[annotators, annotators, questions, questions]], size=(SWAPS * table.size, 4))
    rows: list[list[bool]] = table.tolist()
    for first, second, p, q in corners.tolist():
        a, b = rows[first], rows[second]
        if a[p] != a[q] and a[p] == b[q] and b[p] == a[q]:
            a[p], a[q], b[p], b[q] = a[q], a[p], b[q], b[p]
    table = np.array(rows, dtype=bool)
    return table


def plan(annotators: int, questions: int, models: int, seed: int) -> list[list[Task]]:
    """The tasks of each annotator, in the order in which they are shown."""
    generator = np.random.default_rng(seed)
    pairs = list(itertools.combinations(range(models), 2))
    offset = generator.permutation(questions) % len(pairs)
    turned = sides(annotators, questions, generator)
    plans = []
    for annotator in range(annotators):
        tasks = []
        for question in generator.permutation(questions).tolist():
            pair = pairs[(int(offset[question]) + annotator) % len(pairs)]
            left, right = pair[::-1] if turned[annotator, question] else pair
            tasks.append(Task(question, left, right))
        plans.append(tasks)
    return plans
