"""Statistics of the votes: the lead of one model over another with its interval, tests, agreement, position; and models
of the votes, from statsmodels: a mixed model of one pair, Bradley-Terry of several.

A vote is 1 (the first model won), -1 (it lost) or 0 (a tie, or both bad). People and questions are both samples, and
votes share both: intervals are clustered by question and by annotator at once. Nothing here reads files.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import krippendorff
import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
from statsmodels.stats.sandwich_covariance import cov_cluster

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
    other = 1 - ((1 - LEVEL) / 2) ** (1 / questions)  # the share of another vote that none of so many questions shows
    if mean == 0:
        return Estimate(0.0, None, None, -other, other)  # all ties: what there may be is all won, or all lost
    low, high = (1 - 2 * other, 1.0) if mean > 0 else (-1.0, 2 * other - 1)
    return Estimate(mean, None, None, low, high)


LARGEST = 1_000_000  # votes times groups; beyond, a dense fit of crossed effects takes minutes
EXACT = 1e-9  # a variance of the rest below which nothing is left to judge by
UNBOUNDED = 15.0  # log odds beyond which a strength grows with the fit's steps, not with the votes


@dataclass(frozen=True)
class Effect:
    """A coefficient with its error, interval and two-sided p value."""

    value: float
    error: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Mixed:
    """Vote = model + side + length + question + annotator + rest.

    Attributes:
        model: the first model's lead, other things equal. side: what standing on side A adds to it. length: per unit
            of the natural logarithm of first length over second length; None where lengths do not differ.
        question_sd, annotator_sd, residual_sd: standard deviations of the random parts.
        note: what the fit complained of, or "".
    """

    model: Effect
    side: Effect
    length: Effect | None
    question_sd: float
    annotator_sd: float
    residual_sd: float
    note: str


def mixed(scores: Scores, on_left: Scores, lengths: Scores, questions: Codes, annotators: Codes) -> Mixed | str:
    """Fit by REML, or say why not. `on_left`: 1 where the first model stood on side A, else -1; `lengths`: log ratios.

    The vote's three values are taken as numbers. Length is judged with the lead held at the mean of the questions'
    lengths, so that `model` is the lead at that length.
    """
    groups = [int(codes.max()) + 1 for codes in (questions, annotators)]
    if min(groups) < 2 or len(scores) < sum(groups) + 4 or np.unique(scores).size < 2:
        return "there are too few votes, questions or annotators"
    if len(scores) * sum(groups) > LARGEST:
        return "there are too many votes for this fit"
    centred = lengths - lengths.mean()
    with_length = bool(np.ptp(centred) > 1e-9)
    columns = [np.ones(len(scores)), on_left, *([centred] if with_length else [])]
    design = np.column_stack(columns)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return "side or length cannot be told from the model: sides were not balanced"
    spec = VCSpec(
        ["annotator", "question"],
        [[[f"a{n}" for n in range(groups[1])]], [[f"q{n}" for n in range(groups[0])]]],
        [[np.eye(groups[1])[annotators]], [np.eye(groups[0])[questions]]],
    )
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            fit = MixedLM(scores, design, groups=np.zeros(len(scores)), exog_vc=spec).fit(
                reml=True, method=["lbfgs", "powell"]
            )
        except (np.linalg.LinAlgError, ValueError) as error:
            return f"the fit failed ({error})"
    if fit.scale < EXACT or not np.all(np.isfinite(fit.bse_fe)):
        return "it leaves no rest, so that there is nothing to judge its effects by"
    effects = [_effect(float(v), float(e)) for v, e in zip(fit.fe_params, fit.bse_fe, strict=True)]
    annotator, question = (float(np.sqrt(max(v, 0.0))) for v in fit.vcomp)
    notes = sorted({str(warning.message).split("\n")[0][:120].rstrip(".") for warning in raised})
    return Mixed(
        effects[0],
        effects[1],
        effects[2] if with_length else None,
        question,
        annotator,
        float(np.sqrt(fit.scale)),
        "; ".join(notes),
    )


@dataclass(frozen=True)
class Strength:
    """A model's log odds of winning against the mean model; the interval is clustered by question and annotator."""

    name: str
    value: float
    low: float
    high: float


def bradley_terry(
    names: Sequence[str], left: Codes, right: Codes, scores: Scores, questions: Codes, annotators: Codes
) -> tuple[list[Strength], Effect] | str:
    """Strengths, the strongest first, and the log odds that side A adds; or why there are none.

    Ties and both-bad votes are half a win for each (Bradley and Terry, 1952). Intervals are clustered, with Student's t
    of the smaller number of clusters. `left`, `right`: numbers of the models; `scores`: 1 where left won.
    """
    count = len(names)
    for number, name in enumerate(names):
        own = np.concatenate([scores[left == number], -scores[right == number]])  # a tie is half won and half lost
        if not (np.any(own >= 0) and np.any(own <= 0)):
            what = "never lost" if np.any(own >= 0) else "never won"
            return f"`{name}` {what} against the others: its strength has no bound"
    if not np.any(scores):
        return "nobody chose between two answers"
    design = np.zeros((len(scores), count))
    rows = np.arange(len(scores))
    design[rows, left] += 1
    design[rows, right] -= 1
    # The last model is the zero; the first column is the side.
    exog = np.column_stack([np.ones(len(scores)), design[:, :-1]])
    if np.linalg.matrix_rank(exog) < exog.shape[1]:
        return "the models were not all compared with each other"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of perfect separation, which is said below
        fit = sm.GLM((scores + 1) / 2, exog, family=sm.families.Binomial()).fit()
    if not np.all(np.abs(fit.params) < UNBOUNDED):
        return "one side, or some of the models, won every time: strengths have no bound"
    to_mean = np.vstack([np.eye(count - 1), np.zeros(count - 1)]) - 1 / count
    contrasts = np.vstack([np.eye(1, count), np.column_stack([np.zeros(count), to_mean])])  # the side, then the models
    errors, df = _two_way(fit, questions, annotators, contrasts)
    values = to_mean @ fit.params[1:]
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * errors[1:]
    found = [Strength(n, float(v), float(v - h), float(v + h)) for n, v, h in zip(names, values, half, strict=True)]
    side = _effect(float(fit.params[0]), float(errors[0]), df)
    return sorted(found, key=lambda strength: -strength.value), side


def _two_way(fit: Any, questions: Codes, annotators: Codes, contrasts: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Standard errors of the contrasts, clustered by questions and annotators, and degrees of freedom.

    The two sandwiches less that of single votes, and never below any of the three.
    """
    variances, sizes = list[NDArray[Any]](), list[int]()
    for groups in (questions, annotators, np.arange(len(questions))):
        number = int(groups.max()) + 1
        factor = number / (number - 1) if number > 1 else 0.0
        variances.append(factor * np.diag(contrasts @ cov_cluster(fit, groups, use_correction=False) @ contrasts.T))
        sizes.append(number)
    both = variances[0] + variances[1] - (variances[2] if min(sizes) > 1 else 0)
    return np.sqrt(np.max([both, *variances], axis=0)), max(1, min(size for size in sizes if size > 1) - 1)


def _effect(value: float, error: float, df: float = math.inf) -> Effect:
    half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * error
    p = float(2 * stats.t.sf(abs(value) / error, df)) if error > 0 else float("nan")
    return Effect(value, error, value - half, value + half, p)


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of models, in order."""
    return list(itertools.combinations(names, 2))
