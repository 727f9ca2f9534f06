"""Who sees which pair of answers, on which side, and in which order; and what such a study can see, before it starts.

Guarantees: every annotator judges every question once; per annotator and per question each model (of two) stands left
as often as right, but for one where the number is odd; with several models the pairs are spread evenly over questions
and annotators. Orders and sides are random, drawn from one seed. Does not know what models are called.

A lead (net preference) counts as seen where its 95 % interval, clustered by question and annotator, leaves out zero.
How leads vary over questions and annotators is not known beforehand; `Variation` says what is assumed.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

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


TARGET = 0.8
LEVEL = 0.95
MOST = 65_536
LEADS = (0.05, 0.10, 0.20)


@dataclass(frozen=True)
class Variation:
    """How leads vary: the standard deviation of the true lead over questions, and over annotators; share of ties."""

    questions: float = 0.3
    annotators: float = 0.1
    ties: float = 0.2


ASSUMED = Variation()


def power(lead: float, questions: int, annotators: int, varies: Variation = ASSUMED) -> float:
    """The chance to see a true lead, by the noncentral t distribution (Satterthwaite's degrees of freedom)."""
    count = questions * annotators
    rest = max(1 - varies.ties - lead**2 - varies.questions**2 - varies.annotators**2, 0.01) / count
    by_question = varies.questions**2 / questions + rest
    by_annotator = varies.annotators**2 / annotators + rest
    if annotators < 2 and questions < 2:
        return 0.0
    if annotators < 2:
        variance, df = by_question, float(questions - 1)
    elif questions < 2:
        variance, df = by_annotator, float(annotators - 1)
    else:
        free = (questions - 1) * (annotators - 1)
        variance = by_question + by_annotator - rest
        df = variance**2 / (by_question**2 / (questions - 1) + by_annotator**2 / (annotators - 1) + rest**2 / free)
    edge = float(stats.t.ppf((1 + LEVEL) / 2, df))
    shift = abs(lead) / math.sqrt(variance)
    # Far out the wrong side has no weight (below 1e-7), and cannot be computed either.
    wrong_side = float(stats.nct.cdf(-edge, df, shift)) if shift < 5 else 0.0
    return float(stats.nct.sf(edge, df, shift)) + wrong_side


def smallest(questions: int, annotators: int, varies: Variation = ASSUMED) -> float | None:
    """The smallest lead that is seen with 80 % power; None where not even the largest one is."""
    if power(0.999, questions, annotators, varies) < TARGET:
        return None

    def missing(lead: float) -> float:
        return power(lead, questions, annotators, varies) - TARGET

    return float(optimize.brentq(missing, 1e-6, 0.999, xtol=1e-4))


def questions_needed(lead: float, annotators: int, varies: Variation = ASSUMED) -> int | None:
    """How many questions see a lead with 80 % power; None where no number does with so few annotators."""
    return _least(lambda questions: power(lead, questions, annotators, varies))


def annotators_needed(lead: float, questions: int, varies: Variation = ASSUMED) -> int | None:
    """How many annotators see a lead with 80 % power; None where no number does with so few questions."""
    return _least(lambda annotators: power(lead, questions, annotators, varies))


def _least(reached: Callable[[int], float]) -> int | None:
    return None if reached(MOST) < TARGET else 2 + bisect.bisect_left(range(2, MOST), TARGET, key=reached)


def what_it_sees(questions: int, annotators: int, models: int, detect: float) -> dict[str, Any]:
    """What the design can see, each pair of models taking its share of the votes."""
    pairs = models * (models - 1) // 2
    people = max(1, annotators // pairs)  # that judge one pair on one question
    return {
        "assumed": {
            "question_sd": ASSUMED.questions,
            "annotator_sd": ASSUMED.annotators,
            "ties": ASSUMED.ties,
        },
        "detect": detect,
        "power": power(detect, questions, people),
        "smallest": smallest(questions, people),
        "needed": [
            {
                "lead": lead,
                "power": power(lead, questions, people),
                "questions": questions_needed(lead, people),
                "annotators": _times(annotators_needed(lead, questions), pairs),
                "both": _both(lead, pairs),
            }
            for lead in sorted({*LEADS, detect})
        ],
    }


def _both(lead: float, pairs: int) -> tuple[int, int] | None:
    """The fewest votes that see the lead, as questions and annotators, among designs of a usual shape."""
    usual = (5, 10, 15, 20, 30, 40, 60, 80, 120)
    designs = [(count, people) for people in usual if (count := questions_needed(lead, people)) is not None]
    if not designs:
        return None
    questions, people = min(designs, key=lambda shape: shape[0] * shape[1])
    return questions, people * pairs


def _times(count: int | None, pairs: int) -> int | None:
    return None if count is None else count * pairs
