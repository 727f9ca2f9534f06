"""The model of the table: each task's effects, and how alike those of two tasks are.

1. A task's five effects are its posterior mode (least squares with a normal prior); the prior's share is then taken
   out again, so that what counts is the task's own data. Losses far from the least one weigh less: their error is a
   share of the distance. The prior's means and deviations are those of the tasks (a few rounds, as in
   expectation-maximisation).
2. The scales of the processes over tasks (see `effects`) are their posterior mode, with log-normal priors around START.

Used offline by tools/fit_priors.py, by benchmarks/advice.py for each fold, and for a team's own tables (step 1 alone: a
few more tasks do not move the scales). Needs scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from meshtune.priors.effects import CORNER, EFFECTS, MOST, WORST, Effects, Known, likeness
from meshtune.priors.runs import Run, Task

Array = NDArray[np.float64]
FIRST = ((-1.8, math.log(0.035), math.log(3.0), 0.03, 0.001), (0.5, 0.6, 0.6, 0.03, 0.003))
ROUNDS = 5
LEAST_SPREAD = (0.1, 0.2, 0.2, 0.005, 0.0005)
NOISE, SHARE = 0.0007, 0.15  # of a log loss: far from noise, and of its distance from the least
# Standard deviations before any task is seen, as shares of the effect's own spread.
START = {
    **{"mean": 1.0, "family": 0.4, "generation": 0.5, "hidden_size": 0.5, "steps": 0.7, "batch_size": 0.35},
    "task": 0.4,
}
SPREADS = (0.3, 0.6, 0.4, 0.02, 0.0015)
LOOSE = 0.5  # the deviation of a log scale


@dataclass(frozen=True)
class Prior:
    """What a task's effects are before its runs are seen."""

    means: Effects
    deviations: Effects


@dataclass(frozen=True)
class Fit:
    """The model of a table."""

    known: tuple[Known, ...]
    prior: Prior
    centres: Effects
    scales: tuple[dict[str, float], ...]


def fit(tasks: Sequence[Task]) -> Fit:
    """The model of these tasks."""
    means, spreads = np.array(FIRST[0]), np.array(FIRST[1])
    for _ in range(ROUNDS):
        prior = Prior(_five(means), _five(spreads))
        modes = [_mode(task, prior) for task in tasks]
        found, variances = (np.array([mode[k] for mode in modes]) for k in (0, 1))
        means = found.mean(axis=0)
        spreads = np.maximum(np.sqrt(((found - means) ** 2 + variances).mean(axis=0)), LEAST_SPREAD)
    prior = Prior(_five(means), _five(spreads))
    known = tuple(known_task(task, prior) for task in tasks)
    return Fit(known, prior, prior.means, tuple(_scales(known, index, prior) for index in range(len(EFFECTS))))


def known_task(task: Task, prior: Prior) -> Known:
    """A task's effects by its own runs: the prior, which keeps the estimate finite, is taken out again."""
    mode, variances = _mode(task, prior)
    before = np.array(prior.deviations) ** -2.0
    own = np.maximum(1 / variances - before, 1e-3 * before)
    effects = (mode / variances - np.array(prior.means) * before) / own
    kept = np.where(own > 1e-2 * before, effects, mode)  # of what the runs do not tell
    return Known(task.facts, _five(kept), _five(1 / own))


def _mode(task: Task, prior: Prior) -> tuple[Array, Array]:
    """Posterior mode of the effects, and variances."""
    products, ranks, losses, noise = _observed(task.runs)
    weights = 1 / np.hypot(noise, SHARE * (losses - losses.min()))
    means, spreads = np.array(prior.means), np.array(prior.deviations)

    def residuals(values: Array) -> Array:
        off = values[0] + relative_losses(values[1:], products, ranks) - losses
        return np.concatenate([off * weights, (values[1:] - means) / spreads])

    starts = [means[0] + shift for shift in (-0.4, 0.0, 0.4)]
    found = [least_squares(residuals, np.concatenate([[0.0, peak], means[1:]])) for peak in starts]
    best = min(found, key=lambda each: float(each.cost))
    covariance = np.linalg.inv(best.jac.T @ best.jac)
    return best.x[1:], np.diag(covariance)[1:]


def relative_losses(effects: Array, products: Array, ranks: Array) -> Array:
    """As `effects.relative_loss`, of many points at once; of logs to base 10 and 2."""
    peak, steep, right, tilt, gain = effects
    v = products - peak - tilt * (ranks - 6.0)
    fall = np.exp(steep) * (np.sqrt(v * v + CORNER**2) - CORNER)
    rise = np.exp(np.minimum(np.exp(right) * np.maximum(v, 0.0) ** 2, MOST))
    found: Array = np.minimum(fall * rise, WORST) - gain * (ranks - 6.0)
    return found


def _observed(runs: Sequence[Run]) -> tuple[Array, Array, Array, float]:
    """Logs of product, rank and relative loss, and the noise: what points that are alike differ by, where they do."""
    products = np.log10([run.learning_rate * run.alpha for run in runs])
    ranks = np.log2([run.rank for run in runs])
    losses = np.log([run.loss for run in runs])
    losses -= losses.min()
    return products, ranks, losses, max(NOISE, _noise(products, losses))


def _noise(products: Array, losses: Array) -> float:
    """Of many runs near the best: the deviation from a parabola in the product. 0 of few runs."""
    near = losses < np.quantile(losses, 0.3) if len(losses) >= 40 else np.zeros(len(losses), dtype=bool)
    if near.sum() < 10:
        return 0.0
    left = losses[near] - np.polyval(np.polyfit(products[near], losses[near], 2), products[near])
    return float(left.std())


def _scales(known: Sequence[Known], index: int, prior: Prior) -> dict[str, float]:
    """The scales of one effect's process."""
    names = list(START)
    first = np.log([START[name] * SPREADS[index] for name in names])
    values = np.array([task.effects[index] for task in known]) - prior.means[index]
    noise = np.diag([task.variances[index] for task in known])
    parts = np.stack([_part(known, name) for name in names])

    def negative(logs: Array) -> float:
        matrix = np.tensordot(np.exp(2 * logs), parts, 1) + noise + 1e-12 * np.eye(len(values))
        _, size = np.linalg.slogdet(matrix)
        away = (logs - first) / LOOSE
        return float(0.5 * (values @ np.linalg.solve(matrix, values) + size + away @ away))

    found: Any = minimize(negative, first, method="L-BFGS-B")
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _part(known: Sequence[Known], name: str) -> Array:
    """The likeness of all pairs of tasks by one part alone, with a scale of 1."""
    if name == "task":
        return np.eye(len(known))
    alone = {part: float(part == name) for part in START}
    return np.array([[likeness(a.facts, b.facts, alone) for b in known] for a in known])


def _five(values: Any) -> Effects:
    one, two, three, four, five = (float(value) for value in values)
    return one, two, three, four, five
