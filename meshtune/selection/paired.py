"""Bounds of a paired difference of two candidates' scores that hold with few items and few discordant ones.

The difference is that of the items which the candidate mends (it is right where the other is wrong) and of those which
it breaks. Where only a few are one or the other it is far from normal: no break among 100 items rules out 1 % of them
no better than 3 breaks do. The bounds are score bounds (Tango 1998), and where all discordant items go one way the
exact one of Clopper and Pearson (1934), whichever is farther off. At a difference of -1 point, 24 to 2,000 items and up
to 20 % mended the lower 95 % bound lies above it in at most 5.5 % (by enumeration, tests/selection/test_paired.py).

Answers between right and wrong, and items of unequal weight, count as right or wrong ones of a step and a number that
have the same mean and the same variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from meshtune.selection.measured import POINTS, Array, Measure, Numbers, dense, item_weights

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
    exact = -stats.beta.isf(stats.norm.sf(width), b + 1, np.maximum(n - b, 1e-9))
    return np.asarray(np.where(c == 0, np.minimum(low, exact), low))
