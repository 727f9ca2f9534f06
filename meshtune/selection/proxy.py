"""Proxy mismatch: whether candidates with a lower validation loss score higher.

Spearman's correlation of the rank by validation loss (1 the lowest) with each score: -1 where the loss orders the
candidates as the score does. Its interval (see `ranks`) covers the choice of candidates; the items' noise in the scores
draws the correlation itself towards zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meshtune.selection.ranks import rank_correlation

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
    if count < 3:
        return Correlation(benchmark, count, None, None, None)
    found = rank_correlation(losses, scores, level)
    low, high = (found.low, found.high) if count >= FEWEST else (None, None)
    return Correlation(benchmark, count, found.rho, low, high)
