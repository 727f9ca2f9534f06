"""Comparisons with the models that a candidate would replace: who is no worse, and what the chosen one gains.

*The guard*, non-inferiority: which candidates are shown to be no worse than the models they would replace, on every
benchmark.

A candidate is `kept` where the simultaneous lower bounds of all its differences from the references lie above minus the
margin, `dropped` where a simultaneous upper bound lies below it, and `undecided` otherwise. The bounds hold for all
candidates, references and benchmarks at once: as many standard errors away as the largest of all resampled differences
is, each divided by its standard error. Where answers are known, no bound is nearer than the score bound of the pair for
so many standard errors (below): the differences of a few discordant items are skewed, and no one width of standard
errors holds on both sides. They cover the choice of items, not of seeds.

*The gain*: the gain of the chosen model, raw and corrected for having been chosen for it (the winner's curse).

The estimand is the difference in mean score, in points, between this very adapter and the reference over all items of
the kind asked. The raw gain is what was observed on the items asked; as the candidate was chosen for doing well on just
these, it is too high on average. The corrected one takes from it what empirical Bayes says is luck: the candidates'
true scores are taken as drawn from an unknown distribution, which is estimated from all of them by maximum likelihood
without a form of its own (Kiefer and Wolfowitz 1956; Jiang and Zhang 2009), and the chosen one's score is replaced by
its posterior mean. Noise that all candidates share cancels. The interval is prior-free and holds whichever candidate
was chosen: simultaneous over all that could have been, around the raw gain, as many standard errors wide as the largest
of all resampled differences is, and nowhere nearer than what few discordant items allow (below).

*Bounds* of a paired difference of two candidates' scores that hold with few items and few discordant ones.

The difference is that of the items which the candidate mends (it is right where the other is wrong) and of those which
it breaks. Where only a few are one or the other it is far from normal: no break among 100 items rules out 1 % of them
no better than 3 breaks do. The bounds are score bounds (Tango 1998), and where all discordant items go one way the
exact one of Clopper and Pearson (1934), whichever is farther off. At a difference of -1 point, 24 to 2,000 items and up
to 20 % mended the lower 95 % bound lies above it in at most 5.5 % (by enumeration,
tests/selection/test_comparisons.py).

Answers between right and wrong, and items of unequal weight, count as right or wrong ones of a step and a number that
have the same mean and the same variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainccinv, ndtr, ndtri

from meshtune.selection.measured import POINTS, Array, Measure, Measured, Numbers, dense, item_weights
from meshtune.selection.resampling import least_error, simultaneous, standardized

MARGIN = 1.0  # points


class GuardVerdict(StrEnum):
    """What the guard says of a candidate."""

    KEPT = "kept"
    UNDECIDED = "undecided"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Comparison:
    """A candidate minus a reference on a benchmark, in points, with its simultaneous one-sided 95 % bounds."""

    candidate: str
    reference: str
    benchmark: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Guard:
    """Verdicts by candidate, and what they rest on. Without a reference everybody is kept."""

    verdicts: dict[str, GuardVerdict]
    comparisons: tuple[Comparison, ...]


def guard(
    measured: Measured,
    draws: Array,
    candidates: Sequence[str],
    references: Sequence[str],
    margin: float = MARGIN,
    level: float = 0.95,
) -> Guard:
    """Judge the candidates. `draws`: of `measured`, as `resample` gives them. A reference is not compared to itself."""
    pairs = [(name, other) for name in candidates for other in references if name != other]
    if not pairs:
        return Guard(dict.fromkeys(candidates, GuardVerdict.KEPT), ())
    place = {name: number for number, name in enumerate(measured.names)}
    mine, theirs = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    difference = measured.scores[mine] - measured.scores[theirs]
    drawn = draws[:, mine] - draws[:, theirs]
    error, away = standardized(difference, drawn, np.array([least_error(measure) for measure in measured.measures]))
    away = away.reshape(len(drawn), -1)
    width = simultaneous(np.concatenate([away.max(axis=1), (-away).max(axis=1)]), level)
    apart = np.stack([margins(measure, mine, theirs, width) for measure in measured.measures], axis=1)
    most = np.array([most_apart(measure) for measure in measured.measures])
    low = np.maximum(difference - np.maximum(width * error, apart[:, :, 0]), -most)
    high = np.minimum(difference + np.maximum(width * error, apart[:, :, 1]), most)
    verdicts = {}
    for name in candidates:
        own = [number for number, pair in enumerate(pairs) if pair[0] == name]
        if (high[own] < -margin).any():
            verdicts[name] = GuardVerdict.DROPPED
        else:
            verdicts[name] = GuardVerdict.KEPT if (low[own] > -margin).all() else GuardVerdict.UNDECIDED
    comparisons = tuple(
        Comparison(*pair, measure.name, float(difference[row, kind]), float(low[row, kind]), float(high[row, kind]))
        for row, pair in enumerate(pairs)
        for kind, measure in enumerate(measured.measures)
    )
    return Guard(verdicts, comparisons)


ESTIMAND = "difference in mean score, in points, over all items of the kind asked, of this adapter"
ESTIMAND_OF_SEEDS = "difference in mean score, in points, over all items of the kind asked and all seeds of training"
_GRID, _STEPS = 100, 400


@dataclass(frozen=True)
class Gain:
    """Over a reference, in points; `low` and `high` bound the true gain with 95 % confidence."""

    reference: str
    raw: float
    corrected: float
    low: float
    high: float


def gain(
    reference: str,
    scores: Array,
    drawn: Array,
    chosen: int,
    score: float,
    drawn_reference: Array,
    least: float = 0.0,
    level: float = 0.95,
    margins: Callable[[float], tuple[float, float]] = lambda _: (0.0, 0.0),
    most: float = math.inf,
) -> Gain:
    """The gain of candidate number `chosen` over a reference.

    Args:
        scores: mean scores of the candidates that could have been chosen, whatever these scores say of them. drawn:
            resampled ones, (draws, candidates).
        score: mean score of the reference. drawn_reference: (draws,). least: a standard error that no difference is
            below. margins: how far the chosen one's bounds lie below and above the gain at the least, from their width
            in standard errors. most: that two mean scores can be apart.
    """
    differences = scores - score
    moved = drawn - drawn_reference[:, None]
    errors, away = standardized(differences, moved, least)
    width = simultaneous(np.abs(away).max(axis=1), level, sides=2)
    raw, half = float(differences[chosen]), width * float(errors[chosen])
    below, above = (max(half, least_half) for least_half in margins(width))
    luck = float(scores[chosen] - _posterior_means(scores, _own_errors(drawn, least))[chosen])
    return Gain(reference, raw, raw - luck, max(raw - below, -most), min(raw + above, most))


def _own_errors(drawn: Array, least: float) -> Array:
    """Standard errors of the candidates without the noise that they share."""
    size = drawn.shape[1]
    covariance = np.cov(drawn, rowvar=False).reshape(size, size)
    shared = max(float((covariance.sum() - np.trace(covariance)) / max(size * (size - 1), 1)), 0.0)
    smallest = max(0.01 * float(np.trace(covariance)) / size, least**2 / 2, 1e-12)
    return np.asarray(np.sqrt(np.maximum(np.diag(covariance) - shared, smallest)))


def _posterior_means(scores: Array, errors: Array) -> Array:
    """Of the true scores, under the distribution of them that makes the observed ones most likely."""
    places = np.linspace(scores.min(), scores.max(), _GRID)
    away = (scores[:, None] - places) / errors[:, None]
    likelihood = np.exp(-0.5 * (away**2 - (away**2).min(axis=1, keepdims=True)))
    weights = np.full(_GRID, 1 / _GRID)
    for _ in range(_STEPS):
        shares = likelihood * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    shares = likelihood * weights
    return np.asarray(shares @ places / shares.sum(axis=1))


def most_apart(measure: Measure) -> float:
    """How far two scores can be apart at most, in points: with few seeds the bounds alone would lie beyond it."""
    return math.inf if measure.by_errors else POINTS


_HALVINGS = 50


def margins(measure: Measure, mine: Sequence[int], theirs: Sequence[int], width: float) -> Array:
    """How far the bounds lie below and above each difference, in points: (pairs, 2).

    Args:
        mine, theirs: rows of the measure. width: the bounds' level as a normal quantile; 1.645 is 95 %, one-sided.

    0 where the answers are not known.
    """
    if measure.answers is None or measure.groups is None:
        return np.zeros((len(mine), 2))
    away = (measure.answers[list(mine)] - measure.answers[list(theirs)]) / POINTS
    mended, broken, items, step = np.array([_counts(each, measure.groups) for each in away]).T
    middle = (mended - broken) / items
    below = middle - lower_bound(mended, broken, items, width)
    above = -middle - lower_bound(broken, mended, items, width)
    return np.asarray(np.stack([below, above], axis=1) * (POINTS * step)[:, None])


def _counts(away: Array, groups: Numbers) -> tuple[float, float, float, float]:
    """Items mended, items broken, how many there are, and by how much each of them moves the score, times that."""
    there = ~np.isnan(away)
    weights, away = item_weights(dense(groups[there])), away[there]
    items, moved = 1 / float((weights**2).sum()), float(weights @ np.abs(away))
    step = items * float(weights**2 @ away**2) / moved if moved else 1.0
    if (away <= 0).all() or (away >= 0).all():
        step = max(step, 1.0)  # a few small steps do not say that there are no larger ones
    mended, broken = (items * float(weights @ np.maximum(part, 0)) / step for part in (away, -away))
    size = max(items, mended + broken)
    return mended, broken, size, step * size / items


def interval(mended: float, broken: float, items: float, level: float = 0.95) -> tuple[float, float]:
    """Two-sided, of the share of items mended less the share broken: neither among a few items is no certainty."""
    width = float(-ndtri((1 - level) / 2))
    return float(lower_bound(mended, broken, items, width)), -float(lower_bound(broken, mended, items, width))


def lower_bound(mended: ArrayLike, broken: ArrayLike, items: ArrayLike, width: float) -> Array:
    """Of the share that is mended less the share that is broken, from counts."""
    c, b, n = np.broadcast_arrays(np.asarray(mended, float), np.asarray(broken, float), np.asarray(items, float))
    low, high = np.full(c.shape, -1.0), (c - b) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # the share that is broken, most likely where the difference is `middle`
        half, last = (2 * n - c + b) * middle - b - c, -b * middle * (1 - middle)
        broken_there = (np.sqrt(np.maximum(half**2 - 8 * n * last, 0)) - half) / (4 * n)
        variance = np.maximum(n * (2 * broken_there + middle * (1 - middle)), 0)
        held = c - b - n * middle <= width * np.sqrt(variance)
        low, high = np.where(held, low, middle), np.where(held, middle, high)
    exact = -betainccinv(b + 1, np.maximum(n - b, 1e-9), ndtr(-width))
    return np.asarray(np.where(c == 0, np.minimum(low, exact), low))
