"""What another 20 trials can be expected to gain, from a study's record alone, whichever sampler proposed its trials.

The Gaussian process that `recommended` judges with is asked what it thinks possible: functions are drawn from its
posterior, with its lengths and variances by Laplace's approximation as in `response`. On each of them the search goes
on, one trial after the other and with noise on every value: by expected improvement where the sampler has a model of
this kind, else by draws, half of them all over the space and half about the best points. The gain is what the loss
without noise of the recommended point falls by, as a share of it; over the functions it has a mean and a 95 % interval.

It is a search over a few hundred points, and one that learns from each trial, not from each block.
benchmarks/expected_gain.py measures how far the answer can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from scipy.special import ndtr

from meshtune.record.distributions import distributions, space_of
from meshtune.record.log import Record
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.model import Belief, objective
from meshtune.samplers.gp.observations import Observations, observed
from meshtune.samplers.gp.space import Array, Cube, Indices
from meshtune.samplers.outcomes import TrialReader, WarmStart
from meshtune.selection.recommended import trials_of
from meshtune.selection.response import FEWEST, drawn_parameters
from meshtune.space.goals import LOSS_ALONE
from meshtune.trial import Ending

TRIALS = 20  # that go on in thought
SPREAD, NEAR, AROUND = 8, 96, 4  # 2^8 points all over the space, so many around the best few
BY_MODEL = ("batch-gp", "gp")  # samplers that go on by expected improvement or alike
FITS, FUNCTIONS = 16, 16  # draws of lengths and variances, and of functions for each
Allowed = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class ExpectedGain:
    """Shares of the recommended point's loss: the mean, and the ends of the 95 % interval. `trials`: that go on."""

    mean: float
    low: float
    high: float
    trials: int = TRIALS

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def expected_gain(record: Record, allowed: Allowed = lambda _: True, *, trials: int = TRIALS) -> ExpectedGain | None:
    """What so many further trials can be expected to gain, by the trials as their search ended; whatever was promoted.

    None of fewer than eight losses, where the loss is not the only goal, and where nothing is searched.

    Args:
        allowed: says of hyperparameters whether they may be tried.
    """
    space = space_of(record.notes)
    if space is None or record.guidance.objectives != LOSS_ALONE.objectives or record.guidance.measured:
        return None

    def may(point: Mapping[str, Any]) -> bool:
        return allowed(space.decode(point))

    complete = [
        trial.number
        for trial in record.trials
        if trial.outcome is not None and trial.outcome.ending is Ending.COMPLETE and trial.outcome.loss is not None
    ]
    facts = record.notes.get("warm_start") or {}
    warm = WarmStart.of(record.earlier_trials, facts.get("values", "as_is")) if facts else None
    sampler = (record.notes["fixed"].get("sampler") or {}).get("name")
    return gain_of(
        list(trials_of(record, in_search=True)),
        Encoding(distributions(space)),
        complete,
        warm=warm,
        may=may,
        by_model=sampler in BY_MODEL,
        trials=trials,
    )


def gain_of(
    ended: list[FrozenTrial],
    encoding: Encoding,
    complete: list[int],
    *,
    warm: WarmStart | None = None,
    may: Allowed = lambda _: True,
    by_model: bool = True,
    trials: int = TRIALS,
) -> ExpectedGain | None:
    """The same of Optuna's trials.

    Args:
        complete: numbers of those that may be recommended. may: whether an encoded point may be tried.
        by_model: the search goes on by expected improvement; else by draws.
    """
    if not encoding.space:
        return None
    cube = Cube(encoding)
    seen = observed(ended, cube, TrialReader((StudyDirection.MINIMIZE,)), space="", warm=warm)
    known = np.isfinite(seen.objectives)
    mine = known & np.isin(seen.numbers, complete)
    if known.sum() < FEWEST or not mine.any() or np.ptp(seen.objectives[known]) == 0:
        return None
    belief = objective(cube, seen, "steady", {}, {})
    means = np.where(mine, belief(seen.rows)[0], np.inf)
    start = int(np.argmin(means))
    loss = abs(float(means[start]))
    if not loss:
        return None
    rows, near = _places(cube, seen, np.argsort(means, kind="stable")[: min(AROUND, int(mine.sum()))], may)
    chances = None if by_model else _chances(len(seen.rows), near)
    places = np.concatenate([seen.rows, rows])
    gains = _gains(belief, seen, places, np.flatnonzero(mine), start, trials, chances) / loss
    low, high = np.quantile(gains, (0.025, 0.975))
    return ExpectedGain(float(gains.mean()), float(low), float(high), trials)


def _places(cube: Cube, seen: Observations, best: Indices, may: Allowed) -> tuple[Array, NDArray[np.bool_]]:
    """Rows where the search may go on, new, allowed, and no two the same; and which of them are about the best."""
    from scipy.stats import qmc  # half a second

    spread = (
        cube.points() if cube.encoding.size <= 2**SPREAD else cube.at(qmc.Sobol(len(cube), rng=0).random_base2(SPREAD))
    )
    near = cube.moved(np.repeat(seen.rows[best], NEAR // len(best), axis=0), np.random.default_rng(0))
    rows = np.concatenate([spread, near])
    keys, taken = cube.keys(rows), set(seen.visited)
    kept = list[int]()
    for index, key in enumerate(keys):
        if key not in taken and may(cube.encoding.decode(rows[index].tolist())):
            kept.append(index)
        taken.add(key)
    return rows[kept], np.array(kept, dtype=int) >= len(spread)


def _chances(seen: int, near: NDArray[np.bool_]) -> Array:
    """How likely each place is drawn: no seen one; half the draws are about the best, where there are such places."""
    about, over = near / max(near.sum(), 1), ~near / max((~near).sum(), 1)
    return np.concatenate([np.zeros(seen), about + over])


def _gains(
    belief: Belief, seen: Observations, rows: Array, mine: Indices, start: int, trials: int, chances: Array | None
) -> Array:
    """By drawn function what the loss falls by. rows: those seen, then those where the search may go on."""
    chance = np.random.default_rng(0)
    features = belief.cube.features(rows, belief.logged)
    found = list[Array]()
    for parameters in drawn_parameters(belief, seen, chance, FITS):
        mean, covariance = replace(belief.process, parameters=parameters).joint(features)
        root = np.linalg.cholesky(covariance + 1e-6 * float(np.exp(parameters[-2])) * np.eye(len(mean)))
        functions = mean + (root @ chance.standard_normal((len(mean), FUNCTIONS))).T
        noise = float(np.exp(0.5 * parameters[-1]))
        last = _searched(mean, covariance, functions, noise, mine, len(seen.rows), trials, chance, chances)
        found.append(functions[:, start] - functions[np.arange(len(functions)), last])
    gains: Array = belief.scale * np.concatenate(found)
    return gains


def _searched(
    mean: Array,
    covariance: Array,
    functions: Array,
    noise: float,
    mine: Indices,
    first: int,
    trials: int,
    chance: np.random.Generator,
    chances: Array | None,
) -> Indices:
    """Go on with the search on each function: the places that are recommended in the end, by posterior means.

    Args:
        mean, covariance: of all places, before. functions: (f, places). mine: places that may be recommended already.
        first: the first place that is new. chances: how likely each is drawn; None: by expected improvement.
    """
    count, places = functions.shape
    each = np.arange(count)
    means = np.repeat(mean[None], count, axis=0)
    variances = np.repeat(np.diag(covariance)[None], count, axis=0)
    taken = np.zeros((count, places), dtype=bool)
    taken[:, mine] = True
    free = np.zeros((count, places), dtype=bool)
    free[:, first:] = True
    news = np.zeros((min(trials, places - first), count, places))  # what each value told of all places
    for step in range(len(news)):
        best = np.where(taken, means, np.inf).min(axis=1)
        deviations = np.sqrt(np.maximum(variances, 1e-12))
        z = (best[:, None] - means) / deviations
        improvement = deviations * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
        worth = improvement * (1 - noise / np.hypot(deviations, noise))
        if chances is not None:  # a draw without putting back, by the largest of exponential clocks
            worth = chances / chance.standard_exponential(worth.shape)
        at = np.argmax(np.where(free, worth, -1.0), axis=1)
        earlier = news[:step, each, at]  # (step, f)
        column = covariance[at] - np.einsum("sf,sfp->fp", earlier, news[:step])
        size = np.maximum(column[each, at], 0.0) + noise**2 + 1e-12
        values = functions[each, at] + noise * chance.standard_normal(count)
        means += column * ((values - means[each, at]) / size)[:, None]
        news[step] = column / np.sqrt(size)[:, None]
        variances -= news[step] ** 2
        taken[each, at], free[each, at] = True, False
    last: Indices = np.argmin(np.where(taken, means, np.inf), axis=1)
    return last
