"""How the loss answers to each hyperparameter, by the Gaussian process that `recommended` judges with: what mattered, a
slice through the best point for each, and two of them together.

Nothing is said without its uncertainty. Importances are total effects (Homma and Saltelli 1996, by Jansen's estimator)
of functions drawn from the posterior: of the process, and of its lengths and variances by Laplace's approximation. So
their interval says how much the trials leave open. Losses above the median count less, as in `gp.model.compressed`.
Trials without a loss, and those that were stopped early, are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from optuna.study import StudyDirection

from meshtune.record.distributions import distributions, space_of
from meshtune.record.log import Record
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.model import (
    BOUNDS,
    MOST_FITTED,
    SPREADS,
    Belief,
    Likelihood,
    Process,
    compressed,
    few,
    objective,
)
from meshtune.samplers.gp.observations import Observations, observed
from meshtune.samplers.gp.space import Array, Cube
from meshtune.samplers.outcomes import TrialReader
from meshtune.selection.recommended import recommended, trials_of
from meshtune.space.space import Dimension

FEWEST = 8  # losses from which on a model says more than its prior
DESIGN = 7  # 2^7 points of which one hyperparameter after the other is changed
FITS, FUNCTIONS = 8, 25  # draws of lengths and variances, and of functions for each
STEP = 1e-3  # of the logarithms, in which curvature is taken
PLACES = 41  # values of a slice
PLANE = 25  # values of a side of the plane
SURE = 1.96  # deviations of a 95 % band


def response(record: Record) -> dict[str, Any] | None:
    """What the model says, as plain values; None of fewer than eight losses, or where nothing is searched.

    trials: that it saw. explained: share of the variation of (compressed) losses that it predicts where each trial is
        left out in turn; below zero: it predicts nothing.
    at: number of the trial that the slices go through.
    importances: `{name, share, low, high}`, the largest first: the share of the variation in which a hyperparameter has
        a hand, alone or with others, with a 95 % interval. Shares of several overlap.
    slices: `{name, log, ordered, values, mean, low, high}`, in the same order: loss without noise, with a 95 % band.
    plane: `{x, y, log_x, log_y, xs, ys, mean}` of two hyperparameters, rows by y; None where not two have an order.
    """
    space = space_of(record.notes)
    complete = [trial for trial in trials_of(record) if trial.value is not None]
    if space is None or not complete:
        return None
    encoding = Encoding(distributions(space))
    if not encoding.space:
        return None
    cube = Cube(encoding)
    seen = observed(complete, cube, TrialReader((StudyDirection.MINIMIZE,)), space="")
    if np.isfinite(seen.objectives).sum() < FEWEST or np.ptp(seen.objectives) == 0:
        return None
    belief = objective(cube, seen, "steady", {}, {})
    dimensions = [{one.parameter.name: one for one in space.dimensions}[name] for name in encoding.space]
    at = _anchor(record, seen, belief)
    importances = _importances(belief, seen, [one.name for one in dimensions])
    order = [one["name"] for one in importances]
    places = sorted(range(len(dimensions)), key=lambda index: order.index(dimensions[index].name))
    slices = [_slice(belief, seen, dimensions[index], index, seen.rows[at]) for index in places]
    return {
        "trials": int(np.isfinite(seen.objectives).sum()),
        "explained": _explained(belief.process),
        "at": seen.numbers[at],
        "importances": importances,
        "slices": slices,
        "plane": _plane(belief, seen, dimensions, places, seen.rows[at]),
    }


def _anchor(record: Record, seen: Observations, belief: Belief) -> int:
    """The place of the recommended trial, or the best, or that of the lowest expected loss."""
    found = recommended(record)
    best = found.number if found else record.best.number if record.best is not None else -1
    return seen.numbers.index(best) if best in seen.numbers else int(np.argmin(belief(seen.rows)[0]))


def _importances(belief: Belief, seen: Observations, names: list[str]) -> list[dict[str, Any]]:
    cube, variables = belief.cube, len(belief.cube)
    chance = np.random.default_rng(0)
    from scipy.stats import qmc  # half a second

    shares = qmc.Sobol(2 * variables, rng=0).random_base2(DESIGN)
    first, other = shares[:, :variables], shares[:, variables:]
    changed = [np.where(np.arange(variables) == index, other, first) for index in range(variables)]
    features = cube.features(cube.at(np.concatenate([first, *changed])), belief.logged)
    effects = list[Array]()
    for parameters in drawn_parameters(belief, seen, chance, FITS):
        mean, covariance = replace(belief.process, parameters=parameters).joint(features)
        root = np.linalg.cholesky(covariance + 1e-6 * float(np.exp(parameters[-2])) * np.eye(len(mean)))
        functions = mean[:, None] + root @ chance.standard_normal((len(mean), FUNCTIONS))
        blocks = functions.reshape(variables + 1, -1, FUNCTIONS)
        half = 0.5 * ((blocks[1:] - blocks[:1]) ** 2).mean(axis=1)
        effects.append(half / np.maximum(functions.var(axis=0), 1e-12))
    drawn = np.clip(np.concatenate(effects, axis=1), 0.0, 1.0)
    low, middle, high = np.quantile(drawn, (0.025, 0.5, 0.975), axis=1)
    found = [
        {"name": name, "share": float(middle[n]), "low": float(low[n]), "high": float(high[n])}
        for n, name in enumerate(names)
    ]
    return sorted(found, key=lambda one: (-one["share"], one["name"]))


def drawn_parameters(belief: Belief, seen: Observations, chance: np.random.Generator, count: int) -> list[Array]:
    """So many draws of lengths and variances about the most likely ones, as wide as the posterior is curved there."""
    success = np.isfinite(seen.objectives)
    values = compressed(np.where(success, seen.objectives, seen.objectives[success].max()))
    chosen = few(values, MOST_FITTED)
    features = belief.cube.features(seen.rows[chosen], belief.logged)
    likelihood = Likelihood(features, belief.cube.columns, (values[chosen] - belief.shift) / belief.scale)
    middle = belief.process.parameters
    steps = STEP * np.eye(len(middle))
    curved = np.stack([(likelihood(middle + s)[1] - likelihood(middle - s)[1]) / (2 * STEP) for s in steps])
    curvature, ways = np.linalg.eigh((curved + curved.T) / 2)
    spread = ways / np.sqrt(np.maximum(curvature, 1 / max(SPREADS) ** 2))  # nowhere wider than the priors
    variables = len(belief.cube)
    low, high = np.log([BOUNDS[0]] * variables + list(BOUNDS[1:])).T
    return [np.clip(middle + spread @ chance.standard_normal(len(middle)), low, high) for _ in range(count)]


def _explained(process: Process) -> float:
    """Of the values that the process rests on, each predicted from the others."""
    return 1.0 - float(np.mean((process.values - process.left_out()) ** 2) / np.var(process.values))


def _rows(cube: Cube, index: int, at: Array, places: int) -> Array:
    """Rows that differ from one in a variable: at all of its values where these are few."""
    given = np.linspace(cube.lower[index], cube.upper[index], places)
    if cube.encoding.integer[index] and cube.upper[index] - cube.lower[index] < places:
        given = np.arange(cube.lower[index], cube.upper[index] + 1)
    rows = np.repeat(at[None], len(given), axis=0)
    rows[:, index] = given
    rows = cube.snapped(rows)
    kept: Array = rows[np.unique(rows[:, index], return_index=True)[1]]
    return kept


def _values(cube: Cube, dimension: Dimension, rows: Array) -> list[Any]:
    name = dimension.parameter.name
    return [dimension.decode(cube.encoding.decode(row.tolist())[name]) for row in rows]


def _slice(belief: Belief, seen: Observations, dimension: Dimension, index: int, at: Array) -> dict[str, Any]:
    rows = _rows(belief.cube, index, at, PLACES)
    mean, deviation = belief(rows)
    lines = {"mean": mean, "low": mean - SURE * deviation, "high": mean + SURE * deviation}
    return {
        "name": dimension.name,
        "log": _log(dimension),
        "ordered": _ordered(dimension),
        "values": _values(belief.cube, dimension, rows),
        **{name: _stretched(values, seen.objectives).tolist() for name, values in lines.items()},
    }


def _plane(
    belief: Belief, seen: Observations, dimensions: list[Dimension], places: list[int], at: Array
) -> dict[str, Any] | None:
    """Learning rate and rank, where both are searched; else the two that matter most of those that have an order."""
    able = [index for index in places if _ordered(dimensions[index])]
    named = {dimensions[index].name: index for index in able}
    rate = named.get("learning_rate", named.get("step"))
    pair = [rate, named["rank"]] if rate is not None and "rank" in named else able[:2]
    if len(pair) < 2:
        return None
    across, up = pair
    assert across is not None
    assert up is not None
    columns = _rows(belief.cube, across, at, PLANE)
    lines = _rows(belief.cube, up, at, PLANE)
    grid = np.repeat(columns[None], len(lines), axis=0)
    grid[:, :, up] = lines[:, None, up]
    mean, _ = belief(grid.reshape(-1, len(belief.cube)))
    return {
        "x": dimensions[across].name,
        "y": dimensions[up].name,
        "log_x": _log(dimensions[across]),
        "log_y": _log(dimensions[up]),
        "xs": _values(belief.cube, dimensions[across], columns),
        "ys": _values(belief.cube, dimensions[up], lines),
        "mean": _stretched(mean, seen.objectives).reshape(len(lines), len(columns)).tolist(),
    }


def _log(dimension: Dimension) -> bool:
    return dimension.parameter.log or dimension.encoding == "log2"


def _ordered(dimension: Dimension) -> bool:
    return dimension.parameter.kind != "categorical"


def _stretched(values: Array, objectives: Array) -> Array:
    """Compressed values as losses again: `compressed` the other way round, which keeps every quantile."""
    median = float(np.median(objectives))
    unit = median - float(objectives.min())
    if unit <= 0:
        return values
    above = np.minimum(np.maximum(values - median, 0.0) / unit, 50.0)
    return np.where(above > 0, median + unit * np.expm1(above), values)
