"""Whether two ways to measure order the same points alike: Spearman's rank correlation with its interval.

So too proxy mismatch, whether candidates with a lower validation loss score higher: the correlation of the rank by
validation loss (1 the lowest) with each score is -1 where the loss orders the candidates as the score does. Its
interval covers the choice of candidates; the items' noise in the scores draws the correlation itself towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

FEWEST = 4  # points from which there is an interval


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of two measurements of the same points, with its 95 % interval.

    Attributes:
        rho: from -1 (the order is reversed) to 1 (it is the same); None for fewer than two points, or where all values
            of a side are equal. low, high: None for fewer than four points. points: how many there are.
    """

    rho: float | None
    low: float | None
    high: float | None
    points: int


def rank_correlation(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> RankCorrelation:
    """The correlation of the ranks of two measurements, paired by place; equal values share their mean rank.

    The interval is Fisher's, by the standard error of Bonett and Wright (Psychometrika 65, 2000, 23-28). A correlation
    of 1 has no finite transform: it is taken as half a step below, where a step is what exchanging two neighbours
    costs, 12 / (n^3 - n); that of -1 likewise.
    """
    count = len(first)
    if count < 2 or min(np.ptp(first), np.ptp(second)) == 0:
        return RankCorrelation(None, None, None, count)
    rho = float(np.clip(np.corrcoef(_ranks(first), _ranks(second))[0, 1], -1, 1))
    if count < FEWEST:
        return RankCorrelation(rho, None, None, count)
    most = 1 - 6 / (count**3 - count)
    taken = min(most, max(-most, rho))
    half = float(ndtri((1 + level) / 2)) * math.sqrt((1 + taken**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(taken) + side) for side in (-half, half))
    return RankCorrelation(rho, -1.0 if rho < -most else low, 1.0 if rho > most else high, count)


def _ranks(values: Sequence[float]) -> Array:
    """From 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


FEWEST_CANDIDATES = 5  # for an interval


@dataclass(frozen=True)
class Correlation:
    """Of the loss's ranks with a score. `low`, `high`: 95 %; None for fewer than five candidates.

    `value` is None where all losses or all scores are the same, or there are fewer than three candidates.
    """

    benchmark: str
    candidates: int
    value: float | None
    low: float | None
    high: float | None

    @property
    def trusted(self) -> bool:
        """Whether the loss is shown to order these candidates as the score does."""
        return self.high is not None and self.high < 0


def correlation(benchmark: str, losses: Sequence[float], scores: Sequence[float], level: float = 0.95) -> Correlation:
    """Spearman's correlation with its interval; `losses` may be ranks."""
    count = len(losses)
    if count < 3:
        return Correlation(benchmark, count, None, None, None)
    found = rank_correlation(losses, scores, level)
    low, high = (found.low, found.high) if count >= FEWEST_CANDIDATES else (None, None)
    return Correlation(benchmark, count, found.rho, low, high)
