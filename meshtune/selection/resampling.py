"""Scores as they would come out on other items of the same kind, and how sure a choice is by them.

*Items*: the bootstrap that all of selection rests on.

Where answers are known item by item, items are drawn with replacement within their groups, the same ones for all
candidates, so that differences are paired. One fewer is drawn than a group has, which gives its mean the variance that
it has (McCarthy and Snowden 1985); groups of one item are drawn from together, since each alone would never vary. Where
only scores are known, each is drawn alone from its own distribution: binomial where they are shares of a known number
of items, normal otherwise; this pairs nothing and mostly overstates the noise.

*Seeds*: how far scores move with the seed of training, from candidates that were trained with several, the same for
all.

The model is a two-way one with random effects. The score of candidate i trained with seed s is its mean over seeds,
plus what the seed does to all candidates (the order of rows, say), plus what it does to this one, plus the luck of the
items. The variances are those of the analysis of variance of the scores by candidate and seed, pooled over candidates
for each benchmark; what single answers flip by from seed to seed is taken out of them, since the resamples of the items
hold it already. Each draw of scores on other items then gets draws of both effects, with Student's t for the few
degrees of freedom; a candidate that was trained once has them of its one seed.

What is compared in this way is hyperparameters, trained with any seed. Two seeds or three tell a variance badly.

*Certainty*: chances of being best and Pareto-optimal, and the candidates that may still be the best.

`confidence_set` is a multiple comparison with the best (Hsu 1984) that serves every rule: a candidate leaves only where
some other one has a higher merit in all but a share (1 - level) / (others) of the resamples, which is the bootstrap's
one-sided comparison with Bonferroni's correction over the others. Equal merits keep both. What it holds with the stated
confidence is the best by the rule on all items of the kind asked; seeds of training are not covered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from meshtune.selection.measured import (
    POINTS,
    Array,
    Measure,
    Measured,
    Numbers,
    dense,
    errors,
    item_weights,
    strata,
    whole_scores,
)
from meshtune.selection.rules import SAME, winners

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


def standardized(differences: Array, drawn: Array, least: Array | float) -> tuple[Array, Array]:
    """Standard errors of differences, and how many of them each drawn one is away, by draw.

    `least`: the `least_error` of each. It has to be in the draws, not in what they are divided by alone: the quantile
    of differences that are the same in all draws is 0 however large the divisor.
    """
    errors = np.sqrt(drawn.var(axis=0) + least**2)
    errors[errors == 0] = 1.0  # the same in every draw: the bounds are the difference itself
    moved = drawn + least * np.random.default_rng([0, 2]).normal(size=drawn.shape)
    return errors, np.asarray((moved - differences) / errors)


def simultaneous(largest: Array, level: float, *, sides: int = 1) -> float:
    """How many standard errors wide bounds have to be, from the largest of standardized differences by draw.

    Never below what a normal difference alone needs: draws of a few discordant items are too coarse to say less.
    """
    return max(float(np.quantile(largest, level)), float(-ndtri((1 - level) / sides)))


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


@dataclass(frozen=True)
class Seeds:
    """Effects of seeds on scores.

    Attributes:
        names: candidates with several trainings, their scores being means over these. trainings: of each.
        once: candidates that were trained with the first of the seeds alone.
        own, shared: by benchmark, the standard deviation between seeds, in points, of what a seed does to one candidate
            alone and to all.
        freedom: degrees of freedom that the own one has. The shared one has one fewer than there are trainings,
            however many candidates share it.
    """

    names: tuple[str, ...]
    once: tuple[str, ...]
    trainings: int
    own: Mapping[str, float]
    shared: Mapping[str, float]
    freedom: int

    def draws(self, measured: Measured, count: int, seed: int) -> Array:
        """What is added to draws of scores: (draws, candidates, benchmarks), in points."""
        chance = np.random.default_rng([seed, 1])
        found = np.zeros((count, len(measured.names), len(measured.measures)))
        several = [measured.names.index(name) for name in self.names]
        once = [measured.names.index(name) for name in self.once]
        for kind, measure in enumerate(measured.measures):
            wide, wide_shared = (
                np.sqrt(f / chance.chisquare(f, (count, 1))) for f in (self.freedom, self.trainings - 1)
            )
            of_all = wide_shared * chance.normal(size=(count, self.trainings)) * self.shared[measure.name]
            of_one = wide * chance.normal(size=(count, len(measured.names))) * self.own[measure.name]
            found[:, several, kind] = of_all.mean(axis=1)[:, None] + of_one[:, several] / self.trainings**0.5
            found[:, once, kind] = of_all[:, :1] + of_one[:, once]
        return found


def with_trainings(
    measured: Measured, answers: Mapping[str, Mapping[str, Array]], once: Sequence[str]
) -> tuple[Measured, Seeds]:
    """The candidates with the means over their trainings in place of one, and the effects of seeds.

    Args:
        answers: by candidate and benchmark, points by training and item; trainings with the same seeds in the same
            order for all, the first being the one that `measured` holds. once: candidates with that one alone.
    """
    names = tuple(answers)
    trainings = len(next(iter(answers[names[0]].values())))
    own, shared, measures = {}, {}, []
    for measure in measured.measures:
        if measure.answers is None or measure.groups is None:
            raise ValueError(f"{measure.name}: seeds can only be compared answer by answer")
        cube = np.stack([answers[name][measure.name] for name in names])  # (candidates, trainings, items)
        own[measure.name], shared[measure.name] = _deviations(cube, item_weights(measure.groups))
        values = measure.answers.copy()
        values[[measured.names.index(name) for name in names]] = cube.mean(axis=1)
        scores, noise = whole_scores(values, measure.groups), errors(values, measure.groups)
        measures.append(replace(measure, scores=scores, errors=noise, answers=values))
    freedom = (max(len(names) - 1, 1)) * (trainings - 1)
    seeds = Seeds(names, tuple(once), trainings, own, shared, freedom)
    return Measured(measured.names, tuple(measures)), seeds


def _deviations(cube: Array, weights: Array) -> tuple[float, float]:
    """Between seeds, of what is each candidate's own and of what all share, from (candidates, trainings, items)."""
    size, trainings = cube.shape[:2]
    scores = cube @ weights
    flips = float((cube.var(axis=1, ddof=1) @ weights**2).mean())  # of a score, by single answers
    away = scores - scores.mean(axis=1, keepdims=True)
    whole = float((away**2).sum()) / (size * (trainings - 1))
    if size == 1:
        return max(whole - flips, 0.0) ** 0.5, 0.0
    common = away.mean(axis=0)
    alone = float(((away - common) ** 2).sum()) / ((size - 1) * (trainings - 1))
    both = float((common**2).sum()) / (trainings - 1)  # of the mean over candidates: shared + alone / size
    return max(alone - flips, 0.0) ** 0.5, max(both - alone / size, 0.0) ** 0.5


LEVEL, POWER = 0.95, 0.8


def chance_best(merits: Array) -> Array:
    """The share of draws that each candidate wins, tied wins shared: from (draws, candidates)."""
    won = winners(merits)
    return np.asarray((won / won.sum(axis=1, keepdims=True)).mean(axis=0))


def confidence_set(merits: Array, chosen: int, level: float = LEVEL) -> NDArray[np.bool_]:
    """Who may be the best, from the merits (draws, candidates); the chosen one always may."""
    size = merits.shape[1]
    least = (1 - level) / max(size - 1, 1)
    not_below = np.array([(merits[:, [mine]] >= merits - SAME).mean(axis=0).min() for mine in range(size)])
    may = not_below >= least
    may[chosen] = True
    return np.asarray(may)


def items_to_separate(
    difference: float, error: float, items: int, level: float = LEVEL, *, lasting: float = 0.0
) -> int | None:
    """How many more items would show a difference of this size at `level`, two-sided, four times in five.

    `error`: the standard error of the difference on the present `items`. `lasting`: what more items do not lower, such
    as that of seeds. 0 where they do already; None where no number would, or more than a thousand times the present
    items are needed.
    """
    needed = float(ndtri((1 + level) / 2) + ndtri(POWER))
    room = (difference / needed) ** 2 - lasting**2
    if abs(difference) < SAME or room <= 0 or 1000 * room < error**2:
        return None
    return max(0, math.ceil(items * (error**2 / room - 1)))
