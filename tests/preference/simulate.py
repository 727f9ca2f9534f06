"""Votes with a known truth: lead, position bias, and spread of questions and annotators."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Truth:
    lead: float = 0.1
    side: float = 0.0
    question_sd: float = 0.3
    annotator_sd: float = 0.1
    ties: float = 0.2


@dataclass(frozen=True)
class Made:
    scores: NDArray[np.float64]  # 1: the first model won
    on_left: NDArray[np.float64]  # 1: it stood left
    questions: NDArray[np.int64]
    annotators: NDArray[np.int64]


def chances(truth: Truth, leads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance that the first model wins."""
    decided = 1 - truth.ties
    return (decided + np.clip(leads, -decided, decided)) / 2


def simulated(truth: Truth, questions: int, annotators: int, seed: int) -> Made:
    generator = np.random.default_rng(seed)
    chequered = np.add.outer(np.arange(annotators), np.arange(questions)) % 2
    left = np.where(chequered[:, generator.permutation(questions)], -1.0, 1.0)
    leads = (
        truth.lead
        + truth.side * left
        + generator.normal(0, truth.question_sd, questions)[None, :]
        + generator.normal(0, truth.annotator_sd, annotators)[:, None]
    )
    drawn = generator.random((annotators, questions))
    wins = chances(truth, leads)
    scores = np.where(drawn < wins, 1.0, np.where(drawn < wins + truth.ties, 0.0, -1.0))
    a, q = np.meshgrid(np.arange(annotators), np.arange(questions), indexing="ij")
    return Made(scores.ravel(), left.ravel(), q.ravel(), a.ravel())
