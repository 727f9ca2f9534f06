"""Which of several points are Pareto-optimal: for trials, candidates, resampled scores and MADS's leader alike."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 4_000_000  # comparisons that are held in memory together


def pareto(scores: NDArray[np.float64], *, same: float = 0.0) -> NDArray[np.bool_]:
    """What nothing else equals or exceeds everywhere and exceeds somewhere: (.., points) from (.., points, k).

    Higher is better; equal points all stand. `same`: the largest difference that is none.
    """
    flat = scores.reshape(math.prod(scores.shape[:-2]), *scores.shape[-2:])
    size, kinds = flat.shape[1:]
    step = max(1, AT_ONCE // max(1, size * size * kinds))
    parts = [np.zeros((0, size), dtype=bool)]
    for first in range(0, len(flat), step):
        other, mine = flat[first : first + step, None], flat[first : first + step, :, None]
        beaten = np.all(other >= mine - same, axis=3) & np.any(other > mine + same, axis=3)
        parts.append(~np.any(beaten, axis=2))
    return np.asarray(np.concatenate(parts).reshape(scores.shape[:-1]))
