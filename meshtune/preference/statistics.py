"""Statistics of the votes on one pair of models: the lead and its interval, tests, agreement, position.

A vote is 1 (the first model won), -1 (it lost) or 0 (a tie, or both bad). People and questions are both samples, and
votes share both: intervals are clustered by question and by annotator at once. Nothing here reads files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import krippendorff
import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
Codes = NDArray[np.int64]
FLIPS = 20_000  # random sign flips; fewer questions are flipped in all ways
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, degrees of freedom and 95 % interval; None where there is too little for one."""

    mean: float
    error: float | None
    df: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Test:
    """A two-sided p value, and what it was counted from."""

    p: float
    statistic: float
    count: int


@dataclass(frozen=True)
class Share:
    """A share of decided votes with its exact binomial interval and the p value of one half."""

    count: int
    total: int
    share: float
    low: float
    high: float
    p: float


def clustered_mean(scores: Scores, questions: Codes, annotators: Codes) -> Estimate:
    """The mean vote, clustered by question and annotator.

    The variance is that of a mean with crossed random effects: between questions plus between annotators minus the
    residual that both contain (Cameron, Gelbach and Miller, 2011, with the small-sample factors of an analysis of
    variance), and never below either part, nor below that of independent votes. Student's t has Satterthwaite's degrees
    of freedom. Where all votes are the same, the interval is the exact binomial one of as many votes as questions.
    """
    count, mean = len(scores), float(scores.mean())
    if np.all(scores == scores[0]):
        return _unanimous(mean, len(np.unique(questions)))
    residual = scores - mean
    parts = [_between(residual, codes) for codes in (questions, annotators)]
    within = residual - sum(_means(residual, codes)[codes] for codes in (questions, annotators))
    free = count - sum(groups for _, groups in parts) + 1
    # With one question or one annotator there is nothing to tell the two apart: the other one is all there is.
    usable = [(variance, groups - 1) for variance, groups in parts if groups > 1]
    shared = float((within**2).sum()) / free / count if len(usable) == 2 and free > 0 else 0.0
    total = sum(variance for variance, _ in usable) - shared
    largest = max([*usable, (shared, free)], key=lambda part: part[0])
    if total <= largest[0]:
        total, df = largest[0], float(largest[1])
    else:
        df = total**2 / (sum(v**2 / k for v, k in usable) + (shared**2 / free if shared else 0.0))
    error = math.sqrt(total)
    half = float(stats.t.ppf((1 + LEVEL) / 2, max(df, 1.0))) * error
    return Estimate(mean, error, df, max(-1.0, mean - half), min(1.0, mean + half))


def question_test(scores: Scores, questions: Codes, seed: int = 0) -> Test:
    """Sign-flip permutation test of the questions' mean votes: no lead makes either sign as likely.

    Annotators are taken as they are. Exact where 2^questions is at most `FLIPS`.
    """
    means = _means(scores, questions)
    if len(means) < 2 or not np.any(means):
        return Test(1.0, float(means.mean()), len(means))

    def mean(values: Scores, axis: int) -> Any:
        return np.mean(values, axis=axis)

    flips = stats.permutation_test(
        (means,),
        mean,
        permutation_type="samples",
        n_resamples=FLIPS,
        batch=5000,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Test(float(flips.pvalue), float(means.mean()), len(means))


def sign_test(scores: Scores) -> Test:
    """The sign test of single votes, as if all were independent, which they are not: only to compare with the paper."""
    wins, losses = int((scores > 0).sum()), int((scores < 0).sum())
    if wins + losses == 0:
        return Test(1.0, 0.0, 0)
    return Test(float(stats.binomtest(wins, wins + losses).pvalue), float(wins), wins + losses)


def agreement(scores: Scores, questions: Codes, annotators: Codes) -> float | None:
    """Krippendorff's alpha of the votes (ordinal: lost, tie, won); None where nothing can be said."""
    table = np.full((int(annotators.max()) + 1, int(questions.max()) + 1), np.nan)
    table[annotators, questions] = scores
    if np.unique(scores).size < 2 or (np.sum(~np.isnan(table), axis=0) > 1).sum() == 0:
        return None
    paired = table[:, np.sum(~np.isnan(table), axis=0) > 1]
    if np.unique(paired[~np.isnan(paired)]).size < 2:
        return None
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal"))


def share(count: int, total: int) -> Share | None:
    """A share of `total`; None of nothing."""
    if total == 0:
        return None
    test = stats.binomtest(count, total)
    interval = test.proportion_ci(LEVEL)
    return Share(count, total, count / total, float(interval.low), float(interval.high), float(test.pvalue))


def codes(names: list[str]) -> tuple[Codes, list[str]]:
    """Numbers in place of names, and the names in the order of the numbers."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.int64), list(known)


def _means(scores: Scores, groups: Codes) -> Scores:
    """The mean of each group."""
    means: Scores = np.bincount(groups, weights=scores) / np.bincount(groups)
    return means


def _between(residual: Scores, groups: Codes) -> tuple[float, int]:
    """Variance of the mean from sums of clusters, and the number of clusters."""
    sums = np.bincount(groups, weights=residual)
    number = len(sums)
    if number < 2:
        return 0.0, number
    return float((sums**2).sum()) * number / (number - 1) / len(residual) ** 2, number


def _unanimous(mean: float, questions: int) -> Estimate:
    far = 2 * ((1 - LEVEL) / 2) ** (1 / questions) - 1
    if mean == 0:
        return Estimate(
            0.0, None, None, min(far, 0.0) if questions > 1 else -1.0, max(-far, 0.0) if questions > 1 else 1.0
        )
    low, high = (far, 1.0) if mean > 0 else (-1.0, -far)
    return Estimate(mean, None, None, low, high)
