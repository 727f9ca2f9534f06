"""Proxy mismatch: whether candidates with a lower validation loss score higher.

Spearman's correlation of the rank by validation loss (1 the lowest) with each score: -1 where the loss orders the
candidates as the score does. Intervals are Bonett and Wright's (2000) on Fisher's scale, and cover the choice of
candidates; -1 and 1, which have no place there, are taken as half a step less, as in `ranks`. The items' noise in the
scores draws the correlation itself towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST = 5  # candidates for an interval


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
    if count < 3 or len(set(losses)) == 1 or len(set(scores)) == 1:
        return Correlation(benchmark, count, None, None, None)
    value = float(np.clip(stats.spearmanr(losses, scores).statistic, -1, 1))
    if count < FEWEST:
        return Correlation(benchmark, count, value, None, None)
    most = 1 - 6 / (count**3 - count)
    taken = min(most, max(-most, value))
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((1 + taken**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(taken) + side) for side in (-half, half))
    return Correlation(benchmark, count, value, -1.0 if value < -most else low, 1.0 if value > most else high)
