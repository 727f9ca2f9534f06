"""Where to look next: log expected improvement, lower confidence bound, and a search for the best point by them.

Source: Jones, Schonlau and Welch 1998 (expected improvement); Huang et al. 2006 (under noise); Ament et al. 2023 (its
logarithm); Gardner et al. 2014 (times the probability of being feasible).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr

from meshtune.samplers.gp.space import Array, Cube

RANDOM, AROUND, ROUNDS = 400, 60, 2  # points at random, around each of the best, and rounds of moving the best few
FEW, MOVES = 4, 40
FAR = -100.0  # deviations below the incumbent from where on the expansion of the tail is exact

Score = Callable[[Array], Array]  # of rows, higher is better
Allowed = Callable[[Array], NDArray[np.bool_]]  # of rows


def log_improvement(mean: Array, deviation: Array, incumbent: float) -> Array:
    """Logarithm of the expected improvement on the incumbent, for minimisation."""
    z = (incumbent - mean) / deviation
    near = np.maximum(z, FAR)
    tail = np.log1p(np.sqrt(0.5 * np.pi) * np.minimum(near, 30.0) * erfcx(-np.minimum(near, 30.0) / np.sqrt(2.0)))
    log_h = -0.5 * z**2 - 0.5 * np.log(2.0 * np.pi) + np.where(z > FAR, tail, -2.0 * np.log(np.maximum(-z, 1.0)))
    return np.log(deviation) + np.where(z > 30.0, np.log(np.maximum(z, 1.0)), log_h)


def log_news(deviation: Array, noise: float) -> Array:
    """Logarithm of the share that another noisy value leaves to be gained: nothing where the point is known."""
    found: Array = np.log1p(-noise / np.hypot(deviation, noise) * (1 - 1e-12))
    return found


def log_feasible(mean: Array, deviation: Array, limit: float) -> Array:
    """Logarithm of the probability that a constraint is at most its limit."""
    found: Array = log_ndtr((limit - mean) / deviation)
    return found


def best_point(
    cube: Cube,
    score: Score,
    around: Array,
    taken: Collection[tuple[float, ...]],
    fixed: Mapping[int, float],
    rng: np.random.Generator,
    allowed: Allowed | None = None,
) -> Array:
    """The row with the best score that is allowed and not taken, if any such row is found; else the best one.

    Args:
        around: rows near which the best may lie. fixed: values of coordinates that are given. allowed: None: all are.
    """

    def free(rows: Array) -> NDArray[np.bool_]:
        found = np.array([key not in taken for key in cube.keys(rows)], dtype=bool)
        return found if allowed is None else found & allowed(rows)

    def held(rows: Array) -> Array:
        for index, value in fixed.items():
            rows[:, index] = value
        return rows

    if cube.finite:
        rows = held(cube.points())
        scores = score(rows)
    else:
        drawn = cube.at(rng.random((RANDOM, len(cube))))
        rows = held(np.concatenate([drawn, cube.moved(np.repeat(around, AROUND, axis=0), rng)]))
        scores = _scored(score, rows, free)
        for _ in range(ROUNDS):
            few = rows[np.argsort(-scores, kind="stable")[:FEW]]
            more = held(cube.moved(np.repeat(few, MOVES, axis=0), rng))
            rows = np.concatenate([rows, more])
            scores = np.concatenate([scores, _scored(score, more, free)])
        if np.isfinite(scores).any():
            return rows[int(np.argmax(scores)), :]
        scores = score(rows)
    left = free(rows)
    return rows[int(np.argmax(np.where(left, scores, -np.inf) if left.any() else scores)), :]


def _scored(score: Score, rows: Array, free: Allowed) -> Array:
    return np.where(free(rows), score(rows), -np.inf)
