"""Racing: candidates answer items in rounds, and one that cannot be the best any more leaves.

What is predicted after each round is what scoring everybody on all items would choose. The items that nobody was asked
yet are like those that were asked, so scores on all items are normal around the present ones, with the candidates'
covariance over items and the correction for a finite number of items (Cochran, Sampling Techniques, 1977, chapter 2),
and Student's t for what is not known of the covariance. Drawn many times, this gives each candidate's chance to come
out first by the rule over all entrants, those included that have left: what they were not asked is predicted from how
far they were from the others on what they were asked.

A candidate leaves once its chance is below its part of the error that is allowed, and takes its chance with it. Each
chance is a martingale as answers come in, so that the chances with which candidates left add up to the chance that the
one that full scoring would choose is among them, whenever and however often one looks: it is at most the error.
This holds as far as the prediction does, which is not all the way in near ties: docs/decisions/2026-11-26-racing.md
shows how well it holds on known truths.

It is about the choice on these very items. How sure that choice is for other items of the kind is `select`'s matter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshtune.selection.measured import FEWEST_ITEMS, POINTS, Array, Numbers, item_weights
from meshtune.selection.rules import DEFAULT, Rule, merits, winners

ERROR = 0.05  # the chance that the one that full scoring would choose has left
DRAWS = 2000
FIRST = 40  # items of each benchmark before anybody can leave
GROWTH = 1.3  # items asked after a round, over those before it
APART = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # points between true scores, standard deviations that may be
_FROM = 0.08  # share of a benchmark that the first round has at least


@dataclass(frozen=True)
class Field:
    """A benchmark as a race sees it.

    Attributes:
        answers: points by candidate and item, of all items; not-a-number where it was not asked.
        groups: the number of the group of each item, all zero where the score is a plain mean.
        chance: what guessing scores, in points.
    """

    name: str
    answers: Array
    groups: Numbers
    chance: float = 0.0


def order(name: str, groups: Sequence[str], seed: int) -> list[int]:
    """The numbers of a benchmark's items as they are asked: shuffled, each group spread evenly, one of each first.

    It depends on these alone, so that a race that goes on, or is run again, is the same.
    """
    chance = random.Random(f"race:{seed}:{name}")
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    places = []
    for group in sorted(members):
        numbers, start = chance.sample(members[group], len(members[group])), chance.random()
        for place, number in enumerate(numbers):
            places.append((0.0 if place == 0 else (place + start) / len(numbers), chance.random(), number))
    return [number for _, _, number in sorted(places)]


def rounds(items: int, groups: int = 1) -> list[int]:
    """How many of so many items have been asked after each round; the last is all of them. `groups`: at least these."""
    found = [min(items, max(FIRST, 2 * groups if groups > 1 else 0, round(_FROM * items)))]
    while found[-1] < items:
        found.append(min(items, max(found[-1] + 1, round(GROWTH * found[-1]))))
    return found


def chances(fields: Sequence[Field], rule: Rule = DEFAULT, losses: Array | None = None, *, seed: int = 0) -> Array:
    """Each candidate's chance to come out first on all items, ties shared.

    Benchmarks of few items, and in each draw those without signal, count for nothing, as in `select`.
    """
    counted = [one for one in fields if one.answers.shape[1] >= FEWEST_ITEMS]
    size = len(fields[0].answers)
    if not counted:
        return np.full(size, 1 / size)
    chance = np.random.default_rng(seed)
    drawn = np.stack([_drawn(one, chance) for one in counted], axis=2)
    signal = np.stack([_signal(one, drawn[:, :, n]) for n, one in enumerate(counted)], axis=1)
    won = np.full((len(drawn), size), 1 / size)  # where nothing says anything, nobody is ahead
    codes = signal @ (1 << np.arange(len(counted)))
    for code in np.unique(codes[codes > 0]):
        rows = codes == code
        kinds = signal[rows.argmax()]
        names = [one.name for one, kept in zip(counted, kinds, strict=True) if kept]
        first = winners(merits(rule, drawn[rows][:, :, kinds], names, losses))
        won[rows] = first / first.sum(axis=1, keepdims=True)
    return np.asarray(won.mean(axis=0))


def at_most(chance: float) -> float:
    """What a chance that was counted in draws may be: two standard errors more."""
    return float(chance + 2 * np.sqrt(chance * (1 - chance) / DRAWS))


def leaving(found: Array, racing: Sequence[int], spent: float, error: float = ERROR) -> list[int]:
    """Who of those `racing` leaves, the least likely first.

    `found`: everybody's chance. `spent`: what the chances of those who left before were `at_most`. One always stays.
    """
    out = list[int]()
    ahead = sorted(racing, key=lambda number: float(found[number]))
    while len(ahead) > 1 and at_most(float(found[ahead[0]])) <= (error - spent) / (len(ahead) - 1):
        spent += at_most(float(found[ahead[0]]))
        out.append(ahead.pop(0))
    return out


def _drawn(field: Field, chance: np.random.Generator) -> Array:
    """Scores on all items, (draws, candidates)."""
    asked = ~np.isnan(field.answers)
    present = asked.sum(axis=1) == asked.sum(axis=1).max()
    seen = asked[present].all(axis=0)
    drawn = np.empty((DRAWS, len(asked)))
    drawn[:, present] = _predicted(field.answers[present][:, seen], field.groups[seen], field.groups, chance)
    for number in np.flatnonzero(~present):
        known = asked[number] & seen
        away = field.answers[number, known] - field.answers[present][:, known].mean(axis=0)
        apart = _predicted(away[None], field.groups[known], field.groups, chance)
        drawn[:, number] = drawn[:, present].mean(axis=1) + apart[:, 0]
    if field.groups.max() == 0 and np.isin(field.answers[asked], (0, POINTS)).all():
        step = POINTS / len(field.groups)  # a score is so many right answers: only then can two be equal
        drawn = step * np.round(drawn / step)
    return np.clip(drawn, 0, POINTS)


def _predicted(values: Array, groups: Numbers, whole: Numbers, chance: np.random.Generator) -> Array:
    """Draws of the means over all items, from values (rows, items seen) of a part of them.

    `groups` of the items seen, `whole` of all; the mean is that of the groups' means.
    """
    seen, total = (np.bincount(each, minlength=int(whole.max()) + 1) for each in (groups, whole))
    if (seen == 0).any():  # no answer in some group: all items are taken as of one
        groups, seen, total = np.zeros_like(groups), np.array([len(groups)]), np.array([len(whole)])
    means = np.stack([np.bincount(groups, row, len(seen)) for row in values]) / seen
    estimate = means.mean(axis=1)
    part = float((1 / seen - 1 / total).sum()) / len(seen) ** 2  # of the variance of an item
    if part <= 0:
        return np.broadcast_to(estimate, (DRAWS, len(values)))
    freedom = values.shape[1] - len(seen)
    away = values - means[:, groups]
    if freedom < 2:  # one item a group: what groups differ by is taken for noise, which overstates it
        freedom, away = values.shape[1] - 1, values - values.mean(axis=1, keepdims=True)
    # As if each had been alone right and alone wrong once more: agreement on few items is no certainty.
    spread = away @ away.T / freedom + np.eye(len(values)) * POINTS**2 / values.shape[1]
    noise = float((1 / seen).sum()) / len(seen) ** 2  # of an item's variance, in the scores so far
    known = 1 - part / noise  # the share of all items that they are of
    scale = np.sqrt(freedom / chance.chisquare(freedom, DRAWS))[:, None]
    drawn = scale * chance.normal(size=(DRAWS, len(values)))
    weights, posteriors = _true(estimate, noise * spread)
    which = chance.choice(len(weights), DRAWS, p=weights)
    for number in np.unique(which):
        centre, around = posteriors[number]
        factor = np.linalg.cholesky((1 - known) ** 2 * around + known * part * spread)
        rows = which == number
        drawn[rows] = known * estimate + (1 - known) * centre + drawn[rows] @ factor.T
    return np.asarray(drawn)


def _true(scores: Array, covariance: Array) -> tuple[Array, list[tuple[Array, Array]]]:
    """What is known of the true scores: weights, and for each a mean and a covariance.

    They lie normally around a common one that is not known, with one of the deviations `APART`, each as likely as the
    others before any answer: so that differences of few items are not taken for what they look like.
    """
    size = len(scores)
    if size == 1:
        return np.ones(1), [(scores, covariance)]
    logs, found = [], []
    for apart in APART:
        inverse = np.linalg.inv(apart**2 * np.eye(size) + covariance)
        precision = float(inverse.sum())
        common = float((inverse @ scores).sum()) / precision
        away = scores - common
        logs.append(0.5 * (np.linalg.slogdet(inverse)[1] - np.log(precision) - away @ inverse @ away))
        rest = np.eye(size) - apart**2 * inverse
        ones = rest.sum(axis=1)
        found.append((common + apart**2 * inverse @ away, apart**2 * rest + np.outer(ones, ones) / precision))
    weights = np.exp(np.array(logs) - max(logs))
    return np.asarray(weights / weights.sum()), found


def _signal(field: Field, drawn: Array) -> NDArray[np.bool_]:
    """In which draws somebody is above chance by two standard errors."""
    inverse = float((item_weights(field.groups) ** 2).sum())
    share = drawn / POINTS
    return np.asarray((share - field.chance / POINTS > 2 * np.sqrt(share * (1 - share) * inverse)).any(axis=1))
