"""A Gaussian process for few noisy values: Matern 5/2 with a length for each variable, fitted by its posterior mode.

Source: Rasmussen and Williams 2006, chapters 2, 4 and 5. The constant mean has a flat prior and is integrated out
(section 2.7, equations 2.42 and 2.45): it is estimated from the values, and what is not known of it is part of every
deviation. Values are standardised. Parameters are logarithms: a length for each variable, then the variances of signal
and noise; their priors are normal.

What is believed of a study is two processes over the same values of the objective, and one for each constraint.
`steady` sees values that are compressed above their median, so that a few very bad points do not drown the good ones;
`raw` sees them as they are. A failed trial counts as the worst success. A fit goes on from an earlier one, which is
part of the record, so that what is believed follows from the record alone.

A value that is itself a prediction, as of a trial that was stopped early, has a deviation of its own, whose square is
added to the noise of that value alone: what was stopped at once says less than what was seen to its end.

Where something is known before any trial (`interface.Knowledge`), the process is one of what that leaves: the expected
loss is the mean, times a factor of 1 give or take `FACTOR`, which is integrated out as the constant is. A prior that is
wrong so loses its say as values come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, cast

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri

from meshtune.samplers.gp.observations import Observations
from meshtune.samplers.gp.space import Array, Cube, Indices

View = Literal["steady", "raw"]
EVERY = 30  # parameters are fitted anew at each new value; from 60 values on at every second, from 90 on at every third
MOST_KNOWN = 400  # values that a belief rests on; of more: half of it the lowest, half an even choice of the rest
LENGTH, SIGNAL, NOISE = 0.6, 1.0, 0.01  # medians of the priors; the length's for four variables
SPREADS = (0.8, 1.0, 1.5)  # their deviations in logarithms
START = (0.5, 1.0, 0.02)
BOUNDS = ((0.05, 10.0), (0.05, 20.0), (1e-5, 1.0))
JITTER = 1e-8
FIRST_STEPS, NEXT_STEPS = 40, 8
FACTOR = 1.0  # standard deviation of the factor of what is known beforehand
MOST_FITTED = 250  # points that parameters are fitted to; values are predicted from more


def _in_full(three: tuple[float, float, float], variables: int) -> Array:
    return np.array([three[0]] * variables + list(three[1:]))


def matern(squared: Array) -> tuple[Array, Array]:
    """Correlation at squared distances, and its derivative by them."""
    a = np.sqrt(5.0 * squared)
    decay = np.exp(-a)
    slope = (1.0 + a) * decay
    return slope + (5.0 / 3.0) * squared * decay, (-5.0 / 6.0) * slope


class Likelihood:
    """The negative log posterior of the parameters, with its gradient.

    Args:
        features: (n, columns), and what is known beforehand behind them. columns: the variable of each column.
        values: (n,), standardised. unsure: (n,), variances of those that are predictions, beside the noise of all.
    """

    def __init__(self, features: Array, columns: Indices, values: Array, unsure: Array | float = 0.0):
        n, self._variables = len(values), int(columns.max()) + 1
        self._values, self._unsure = values, unsure
        self._below = np.tril_indices(n, -1)
        features, trend = features[:, : len(columns)], features[:, len(columns) :]
        self._trend = trend @ trend.T
        squares = (features[self._below[0]] - features[self._below[1]]) ** 2
        # By variable: the columns of a category share their length.
        self._squares = np.stack([squares[:, columns == v].sum(axis=1) for v in range(self._variables)])
        self._medians = _in_full((LENGTH * np.sqrt(self._variables / 4), SIGNAL, NOISE), self._variables)
        self._spreads = _in_full(SPREADS, self._variables)

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Value and gradient."""
        n, variables = len(self._values), self._variables
        weights = np.exp(-2.0 * parameters[:variables])
        signal, noise = np.exp(parameters[variables:])
        correlation, slope = matern(weights @ self._squares)
        matrix = np.array(self._trend, order="F")
        matrix[self._below] += signal * correlation
        matrix[np.diag_indices(n)] += signal + noise + JITTER + self._unsure
        lower, failed = dpotrf(matrix, lower=1, overwrite_a=1)
        if failed:
            return 1e10, np.zeros_like(parameters)
        ones = np.ones((n, 2))
        ones[:, 1] = self._values
        of_ones, of_values = cho_solve((lower, True), ones, check_finite=False).T
        known = of_ones.sum()  # of the mean: one over its variance
        mean = of_values.sum() / known
        residual, solved = self._values - mean, of_values - mean * of_ones
        inverse, _ = dpotri(lower, lower=1)
        one, other = self._below
        by_matrix = (
            inverse[self._below] - solved[one] * solved[other] - of_ones[one] * of_ones[other] / known
        )  # twice .5
        by_diagonal = 0.5 * (np.diag(inverse) - solved**2 - of_ones**2 / known)
        away = (parameters - np.log(self._medians)) / self._spreads
        value = 0.5 * (residual @ solved + np.log(known) + away @ away) + np.log(np.diag(lower)).sum()
        gradient = away / self._spreads
        gradient[:variables] -= 2.0 * weights * (self._squares @ (signal * by_matrix * slope))
        gradient[variables] += signal * (by_matrix @ correlation + by_diagonal.sum())
        gradient[variables + 1] += noise * by_diagonal.sum()
        return float(value), gradient


def fitted(
    features: Array, columns: Indices, values: Array, start: Array | None = None, unsure: Array | None = None
) -> tuple[Array, float]:
    """The most likely parameters, and how likely they are: their negative log posterior.

    `start`: earlier parameters, from which a few steps are enough. `unsure`: see `Likelihood`.
    """
    from scipy.optimize import minimize  # a third of a second, for those who have something to fit

    variables = int(columns.max()) + 1
    chosen = few(values, MOST_FITTED)
    features, values = features[chosen], values[chosen]
    beside = 0.0 if unsure is None else unsure[chosen]
    first = np.log(_in_full(START, variables)) if start is None else start
    bounds = [BOUNDS[0]] * variables + list(BOUNDS[1:])
    found = minimize(
        Likelihood(features, columns, values, beside),
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=np.log(bounds),
        options={"maxiter": FIRST_STEPS if start is None else NEXT_STEPS},
    )
    return cast("Array", found.x), float(found.fun)


def few(values: Array, most: int) -> Indices:
    """Positions of at most so many values, in their order: half of them the lowest, half an even choice of the rest."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    half = most // 2
    rest = order[half:]
    return np.sort(np.concatenate([order[:half], rest[np.linspace(0, len(rest) - 1, most - half).astype(int)]]))


@dataclass(frozen=True)
class Process:
    """A Gaussian process with its data.

    Points whose values are pending count with their own expectation, which changes no mean: they make it surer only.

    Attributes:
        parameters: see `fitted`. columns: the variable of each feature. features: (n, columns), and what is known
            beforehand behind them. values: (n,). pending: features of points without a value yet.
        unsure: (n,), variances of the values that are predictions, beside the noise of all; None: of none.
    """

    parameters: Array
    columns: Indices
    features: Array
    values: Array
    pending: Array
    unsure: Array | None = None

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free value at points."""
        n = len(self.values)
        across = self._kernel(np.concatenate([self.features, self.pending]), features)
        solved = solve_triangular(self._lower, across, lower=True, check_finite=False)
        ones = solve_triangular(self._lower, np.ones(len(across)), lower=True, check_finite=False)
        of_mean = (1.0 - ones @ solved) ** 2 / (ones @ ones)
        trend = features[:, len(self.columns) :]
        own = self._signal + np.einsum("ij,ij->i", trend, trend)
        variance = own - np.einsum("ij,ij->j", solved, solved) + of_mean
        deviation: Array = np.sqrt(np.maximum(variance, 1e-12))
        return self._mean + across[:n].T @ self._weights, deviation

    def joint(self, features: Array) -> tuple[Array, Array]:
        """Mean and covariance of the noise-free values at points."""
        n = len(self.values)
        across = self._kernel(np.concatenate([self.features, self.pending]), features)
        solved = solve_triangular(self._lower, across, lower=True, check_finite=False)
        ones = solve_triangular(self._lower, np.ones(len(across)), lower=True, check_finite=False)
        short = 1.0 - ones @ solved
        covariance = self._kernel(features, features) - solved.T @ solved + np.outer(short, short) / (ones @ ones)
        return self._mean + across[:n].T @ self._weights, covariance

    def left_out(self) -> Array:
        """What the others predict for each value (Rasmussen and Williams 2006, equation 5.12)."""
        n = len(self.values)
        precision = np.diag(cho_solve((self._lower[:n, :n], True), np.eye(n)))
        predicted: Array = self.values - self._weights / precision
        return predicted

    @property
    def noise(self) -> float:
        """Standard deviation of one value's noise."""
        return float(np.exp(0.5 * self.parameters[-1]))

    @property
    def _signal(self) -> float:
        return float(np.exp(self.parameters[-2]))

    def _kernel(self, one: Array, other: Array) -> Array:
        from scipy.spatial.distance import cdist  # so too

        lengths, count = np.exp(self.parameters[self.columns]), len(self.columns)
        squared = cdist(one[:, :count] / lengths, other[:, :count] / lengths, "sqeuclidean")
        return self._signal * matern(squared)[0] + one[:, count:] @ other[:, count:].T

    @cached_property
    def _lower(self) -> Array:
        points = np.concatenate([self.features, self.pending])
        matrix = self._kernel(points, points)
        diagonal = np.full(len(points), np.exp(self.parameters[-1]) + JITTER)
        if self.unsure is not None:
            diagonal[: len(self.unsure)] += self.unsure
        matrix[np.diag_indices(len(points))] += diagonal
        return cast("Array", np.linalg.cholesky(matrix))

    @cached_property
    def _solved(self) -> tuple[float, Array]:
        n = len(self.values)
        lower = self._lower[:n, :n]
        of_ones, of_values = cho_solve((lower, True), np.stack([np.ones(n), self.values], axis=1)).T
        mean = of_values.sum() / of_ones.sum()
        return float(mean), of_values - mean * of_ones

    @property
    def _mean(self) -> float:
        return self._solved[0]

    @property
    def _weights(self) -> Array:
        return self._solved[1]


@dataclass(frozen=True)
class Fitted:
    """Parameters of a process (see `gp_model.fitted`), and how many values they were fitted to.

    `logged`: the wide variables that are seen on a logarithmic scale.
    """

    parameters: tuple[float, ...]
    logged: tuple[int, ...]
    values: int

    def to_json(self) -> list[Any]:
        """As `from_json` reads it."""
        return [list(self.parameters), list(self.logged), self.values]

    @classmethod
    def from_json(cls, given: Any) -> Fitted:
        """Exactly what was written."""
        parameters, logged, values = given
        return cls(tuple(parameters), tuple(logged), values)


FittedByName = dict[str, Fitted]


@dataclass(frozen=True)
class Belief:
    """A process in the unit of its values.

    Attributes:
        shift, scale: of the values, which are standardised inside. trend: what is known beforehand.
    """

    cube: Cube
    process: Process
    logged: tuple[int, ...]
    shift: float
    scale: float
    trend: Trend | None = None

    def __call__(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free value."""
        mean, deviation = self.process.predict(_features(self.cube, rows, self.logged, self.trend, self.scale))
        before = self.trend(rows) if self.trend else 0.0
        return self.shift + self.scale * mean + before, self.scale * deviation

    @property
    def noise(self) -> float:
        """Standard deviation of one value's noise."""
        return self.scale * self.process.noise


def compressed(values: Array) -> Array:
    """Values above the median drawn towards it; those below stay as they are."""
    return _drawn(values)[0]


def _drawn(values: Array) -> tuple[Array, Array]:
    """The same, and the slopes there: what becomes of a small deviation."""
    median = float(np.median(values))
    unit = median - float(values.min())
    if unit <= 0:
        return values, np.ones(len(values))
    above = np.maximum(values - median, 0.0)
    return np.where(above > 0, median + unit * np.log1p(above / unit), values), 1 / (1 + above / unit)


def objective(
    cube: Cube, seen: Observations, view: View, earlier: Mapping[str, Fitted], newly_fitted: FittedByName
) -> Belief:
    """What is believed of the objective; `seen` has at least one success. Writes a new fit to `newly_fitted`."""
    success = np.isfinite(seen.objectives)
    values = np.where(success, seen.objectives, seen.objectives[success].max())
    trend = None if cube.known is None else Trend(cube, values, steady=view == "steady")
    deviations = seen.deviations
    if view == "steady":
        values, slopes = _drawn(values)
        deviations = slopes * deviations
    return _belief(cube, seen.rows, values, seen.pending, view, earlier, newly_fitted, trend, deviations)


def constraint(
    cube: Cube, seen: Observations, name: str, earlier: Mapping[str, Fitted], newly_fitted: FittedByName
) -> Belief:
    """What is believed of a constraint."""
    values = seen.constraints[name]
    known = np.isfinite(values)
    values = np.sign(values[known]) * compressed(np.abs(values[known]))
    return _belief(cube, seen.rows[known], values, seen.pending, f"constraint {name}", earlier, newly_fitted)


def _belief(
    cube: Cube,
    rows: Array,
    values: Array,
    pending: Array,
    name: str,
    earlier: Mapping[str, Fitted],
    newly_fitted: FittedByName,
    trend: Trend | None = None,
    deviations: Array | None = None,
) -> Belief:
    scale = float(values.std()) or 1.0
    values = values - trend(rows) if trend else values
    shift = float(values.mean())
    standard = (values - shift) / scale
    unsure = None if deviations is None or not deviations.any() else (deviations / scale) ** 2
    fit = earlier.get(name)
    known = len(values)

    def features(rows: Array, logged: Sequence[int]) -> Array:
        return _features(cube, rows, logged, trend, scale)

    if fit is not None and len(fit.parameters) != int(cube.columns.max()) + 3:  # of a search that knew more, or less
        fit = None
    if fit is None or known - fit.values >= max(1, min(3, known // EVERY)):
        fit = newly_fitted[name] = _refitted(cube, partial(features, rows), standard, unsure, fit)
    kept = few(standard, MOST_KNOWN)
    process = Process(
        np.array(fit.parameters, dtype=np.float64),
        cube.columns,
        features(rows[kept], fit.logged),
        standard[kept],
        features(pending, fit.logged),
        None if unsure is None else unsure[kept],
    )
    return Belief(cube, process, fit.logged, shift, scale, trend)


@dataclass(frozen=True)
class Trend:
    """What is known beforehand, in the unit of the values and in their view; it reaches no further than they do."""

    cube: Cube
    seen: Array
    steady: bool

    def __call__(self, rows: Array) -> Array:
        """The expected value above the least one."""
        assert self.cube.known is not None
        if not len(rows):
            return np.zeros(0)
        low, median, high = (float(each) for each in np.percentile(self.seen, [0, 50, 100]))
        above = np.maximum(abs(low) * np.expm1(self.cube.known.loss(self.cube.values(rows))), 0.0)
        unit = (median - low) if self.steady else (high - low)
        found: Array = unit * np.log1p(above / unit) if unit > 0 else above
        return found


def _features(cube: Cube, rows: Array, logged: Sequence[int], trend: Trend | None, scale: float) -> Array:
    found = cube.features(rows, logged)
    return found if trend is None else np.column_stack([found, FACTOR * trend(rows) / scale])


def _refitted(
    cube: Cube,
    features: Callable[[Sequence[int]], Array],
    values: Array,
    unsure: Array | None,
    earlier: Fitted | None,
) -> Fitted:
    """Fitted on; wide variables change to their other scale where that is likelier, one a time once there is a fit."""
    logged = set(earlier.logged) if earlier else set()
    start = np.array(earlier.parameters, dtype=np.float64) if earlier else None
    parameters, cost = fitted(features(sorted(logged)), cube.columns, values, start, unsure)
    for variable in cube.wide if earlier is None else cube.wide[len(values) % max(len(cube.wide), 1) :][:1]:
        other = logged ^ {variable}
        found, its_cost = fitted(features(sorted(other)), cube.columns, values, start, unsure)
        if its_cost < cost:
            logged, parameters, cost = other, found, its_cost
    return Fitted(tuple(parameters.tolist()), tuple(sorted(logged)), len(values))
