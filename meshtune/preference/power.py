"""What a study can see, before it starts: its power, the smallest lead it sees, and the size that a lead needs.

A lead (net preference) counts as seen where its 95 % interval, clustered by question and annotator, leaves out zero.
The spread of questions and annotators is not known beforehand; `Spread` says what is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import optimize, stats

TARGET = 0.8
LEVEL = 0.95
MOST = 100_000


@dataclass(frozen=True)
class Spread:
    """How leads vary: the standard deviation of the true lead over questions, and over annotators; share of ties."""

    questions: float = 0.3
    annotators: float = 0.1
    ties: float = 0.2


ASSUMED = Spread()


def power(lead: float, questions: int, annotators: int, spread: Spread = ASSUMED) -> float:
    """The chance to see a true lead, by the noncentral t distribution (Satterthwaite's degrees of freedom)."""
    count = questions * annotators
    rest = max(1 - spread.ties - lead**2 - spread.questions**2 - spread.annotators**2, 0.01) / count
    by_question = spread.questions**2 / questions + rest
    by_annotator = spread.annotators**2 / annotators + rest
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


def smallest(questions: int, annotators: int, spread: Spread = ASSUMED) -> float | None:
    """The smallest lead that is seen with 80 % power; None where not even the largest one is."""
    if power(0.999, questions, annotators, spread) < TARGET:
        return None

    def missing(lead: float) -> float:
        return power(lead, questions, annotators, spread) - TARGET

    return float(optimize.brentq(missing, 1e-6, 0.999, xtol=1e-4))


def questions_needed(lead: float, annotators: int, spread: Spread = ASSUMED) -> int | None:
    """How many questions see a lead with 80 % power; None where no number does with so few annotators."""
    return _least(lambda questions: power(lead, questions, annotators, spread))


def annotators_needed(lead: float, questions: int, spread: Spread = ASSUMED) -> int | None:
    """How many annotators see a lead with 80 % power; None where no number does with so few questions."""
    return _least(lambda annotators: power(lead, questions, annotators, spread))


def _least(reached: Callable[[int], float]) -> int | None:
    high = 2
    while reached(high) < TARGET:
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= TARGET else (middle, high)
    return high
