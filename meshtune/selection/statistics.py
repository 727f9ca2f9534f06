"""Paired comparisons of two models on the same rows, means of repeats, and shares of items, with their intervals.

What a sample's own spread cannot tell is not taken for certain: none right of 20 is a share between 0 and 16 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from meshtune.errors import InputError

RowLosses = Sequence[tuple[float, int]]  # per row: summed loss over its label tokens, number of label tokens


@dataclass(frozen=True)
class Difference:
    """Token-weighted loss of one model minus another's on the same rows, with its 95 % interval (nats a token).

    One row is too few for an interval: `low` and `high` are None.
    """

    mean: float
    low: float | None
    high: float | None
    rows: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(ours: RowLosses, theirs: RowLosses, level: float = 0.95) -> Difference:
    """Loss of `ours` minus loss of `theirs`, paired by row.

    The difference is a ratio of sums over rows (loss differences over token counts), so its variance is the
    linearised one of a ratio estimator, rows being independent, with Student's t at rows - 1 degrees of freedom
    (Cochran, Sampling Techniques, 1977, section 2.11). It covers the choice of rows, not of seeds.

    Raises InputError where the rows are not the same.
    """
    if [count for _, count in ours] != [count for _, count in theirs]:
        raise InputError("the two models were not measured on the same rows: measure both again")
    counts = np.array([count for _, count in ours], dtype=float)
    differences = np.array([a - b for (a, _), (b, _) in zip(ours, theirs, strict=True)])
    mean = float(differences.sum() / counts.sum())
    rows = len(counts)
    if rows < 2:
        return Difference(mean, None, None, rows)
    residuals = differences - mean * counts
    error = float(np.sqrt(rows / (rows - 1) * (residuals**2).sum()) / counts.sum())
    half = float(stdtrit(rows - 1, (1 + level) / 2)) * error
    return Difference(mean, mean - half, mean + half, rows)


@dataclass(frozen=True)
class Mean:
    """A mean of independent values with its standard error and its interval (not-a-number for a single value)."""

    mean: float
    error: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> Mean:
    """The mean of at least one value, with Student's t interval at count - 1 degrees of freedom.

    Raises InputError where there is no value.
    """
    count = len(values)
    if count == 0:
        raise InputError("there is no value to take the mean of")
    mean = float(np.mean(values))
    if count < 2:
        return Mean(mean, math.nan, math.nan, math.nan, count)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Mean(mean, error, mean - half, mean + half, count)


def against_replicates(other: float, mean: float, deviation: float, count: int, level: float = 0.95) -> Mean:
    """How far the loss of a single training lies above the mean of replicates of another point, with its interval.

    Both points are taken to have the replicates' deviation, so that the error is that of one value and of a mean of
    `count`, with Student's t at count - 1 degrees of freedom. It covers the seeds of training, not the choice of rows.
    """
    error = deviation * math.sqrt(1 + 1 / count)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Mean(other - mean, error, other - mean - half, other - mean + half, count)


def share_interval(share: float, items: float, level: float = 0.95) -> tuple[float, float]:
    """Of a share from 0 to 1 of so many items: Wilson's score interval (1927), which has width at 0 and 1 too.

    `share` may lie between two counts, as a mean over models does, and `items` may be the number of independent items
    that have the same standard error. For answers from 0 to 1 that are neither it is too wide, not too narrow.
    """
    z = float(ndtri((1 + level) / 2))
    middle = (share + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z / (1 + z**2 / items) * math.sqrt(share * (1 - share) / items + z**2 / (4 * items**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_difference(
    mine: float, theirs: float, items: float, their_items: float, level: float = 0.95
) -> tuple[float, float]:
    """The interval of a difference of two shares: Newcombe's, of both Wilson intervals (1998, method 10).

    It takes the items of both for independent: where both answered the same ones it is too wide, not too narrow.
    """
    (low, high), (their_low, their_high) = (
        share_interval(mine, items, level),
        share_interval(theirs, their_items, level),
    )
    below, above = math.hypot(mine - low, their_high - theirs), math.hypot(high - mine, theirs - their_low)
    return mine - theirs - below, mine - theirs + above
