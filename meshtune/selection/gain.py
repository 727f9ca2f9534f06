"""The gain of the chosen model, raw and corrected for having been chosen for it (the winner's curse).

The estimand is the difference in mean score, in points, between this very adapter and the reference over all items of
the kind asked. The raw gain is what was observed on the items asked; as the candidate was chosen for doing well on just
these, it is too high on average. The corrected one takes from it what empirical Bayes says is luck: the candidates'
true scores are taken as drawn from an unknown distribution, which is estimated from all of them by maximum likelihood
without a form of its own (Kiefer and Wolfowitz 1956; Jiang and Zhang 2009), and the chosen one's score is replaced by
its posterior mean. Noise that all candidates share cancels. The interval is prior-free and holds whichever candidate
was chosen: simultaneous over all that could have been, around the raw gain, as many standard errors wide as the largest
of all resampled differences is, and nowhere nearer than what few discordant items allow (`paired`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from meshtune.selection.measured import Array
from meshtune.selection.resampling import at_least, simultaneous

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
) -> Gain:
    """The gain of candidate number `chosen` over a reference.

    Args:
        scores: mean scores of the candidates that could have been chosen, whatever these scores say of them. drawn:
            resampled ones, (draws, candidates).
        score: mean score of the reference. drawn_reference: (draws,). least: a standard error that no difference is
            below. margins: how far the chosen one's bounds lie below and above the gain at the least, from their width
            in standard errors.
    """
    differences = scores - score
    moved = drawn - drawn_reference[:, None]
    errors = np.sqrt(moved.var(axis=0) + least**2)
    errors[errors == 0] = 1.0
    away = np.abs(at_least(moved, least) - differences) / errors
    width = simultaneous(away.max(axis=1), level, sides=2)
    raw, half = float(differences[chosen]), width * float(errors[chosen])
    below, above = (max(half, least_half) for least_half in margins(width))
    luck = float(scores[chosen] - _posterior_means(scores, _own_errors(drawn, least))[chosen])
    return Gain(reference, raw, raw - luck, raw - below, raw + above)


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
