"""Scores as they would come out on other items of the same kind: the bootstrap that all of selection rests on.

Where answers are known item by item, items are drawn with replacement within their groups, the same ones for all
candidates, so that differences are paired. One fewer is drawn than a group has, which gives its mean the variance that
it has (McCarthy and Snowden 1985); groups of one item are drawn from together, since each alone would never vary. Where
only scores are known, each is drawn alone from its own distribution: binomial where they are shares of a known number
of items, normal otherwise; this pairs nothing and mostly overstates the noise.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from meshtune.selection.measured import POINTS, Array, Measure, Measured, Numbers, dense, item_weights, strata

DRAWS = 4000
_AT_ONCE = 4_000_000  # numbers in memory


def resample(measured: Measured, draws: int = DRAWS, seed: int = 0) -> Array:
    """Scores in points by draw, candidate and benchmark; benchmarks are independent of one another."""
    chance = np.random.default_rng(seed)
    return np.stack([_one(measure, draws, chance) for measure in measured.measures], axis=2)


def least_error(measure: Measure) -> float:
    """A standard error in points that no paired difference on this benchmark is below.

    One discordant pair is added each way, as in Bonett and Price (2012): otherwise two candidates that happen to agree
    on all of a few items would pass for surely equal. 0 where the items are not known.
    """
    if measure.items is None:
        return 0.0
    weights = np.full(measure.items, 1 / measure.items) if measure.groups is None else item_weights(measure.groups)
    effective = 1 / float((weights**2).sum())
    return POINTS * 2**0.5 / (effective + 2)


def at_least(drawn: Array, least: Array | float) -> Array:
    """Drawn differences with a `least_error` in them, each with its own.

    It has to be in the draws, not in what they are divided by alone: the quantile of differences that are the same in
    all draws is 0 however large the divisor.
    """
    return np.asarray(drawn + least * np.random.default_rng([0, 2]).normal(size=drawn.shape))


def simultaneous(largest: Array, level: float, *, sides: int = 1) -> float:
    """How many standard errors wide bounds have to be, from the largest of standardized differences by draw.

    Never below what a normal difference alone needs: draws of a few discordant items are too coarse to say less.
    """
    return max(float(np.quantile(largest, level)), float(stats.norm.isf((1 - level) / sides)))


def _one(measure: Measure, draws: int, chance: np.random.Generator) -> Array:
    if measure.answers is not None and measure.groups is not None:
        return _of_items(measure.answers, measure.groups, draws, chance)
    size = (draws, len(measure.scores))
    if measure.items is not None and not measure.by_errors:
        right = chance.binomial(measure.items, measure.scores / POINTS, size)
        return np.asarray(POINTS * right / measure.items)
    return chance.normal(measure.scores, np.nan_to_num(measure.errors), size)


def _of_items(answers: Array, groups: Numbers, draws: int, chance: np.random.Generator) -> Array:
    there = ~np.isnan(answers)
    full = there.all(axis=1)
    found = np.empty((draws, len(answers)))
    found[:, full] = _of_all(answers[full], groups, draws, chance)
    for row in np.flatnonzero(~full):  # it left a race: how far it was from the others is drawn again, by itself
        away = answers[row, there[row]] - answers[full][:, there[row]].mean(axis=0)
        apart = _of_all(away[None], dense(groups[there[row]]), draws, chance)[:, 0]
        found[:, row] = np.clip(found[:, full].mean(axis=1) + apart, 0, POINTS)
    return found


def _of_all(answers: Array, groups: Numbers, draws: int, chance: np.random.Generator) -> Array:
    total = np.zeros((draws, len(answers)))
    weights, places = item_weights(groups), strata(groups)
    for place in range(int(places.max()) + 1):
        at = places == place
        values, own = answers[:, at], weights[at]
        items, share = len(own), own.sum()
        step = max(1, _AT_ONCE // items)
        for first in range(0, draws, step):
            rows = min(step, draws - first)
            drawn = chance.integers(0, items, (rows, max(items - 1, 1))) + items * np.arange(rows)[:, None]
            parts = own * np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items)
            total[first : first + rows] += share * (parts @ values.T) / parts.sum(axis=1, keepdims=True)
    return total
