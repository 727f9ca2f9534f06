"""A Gaussian process for few noisy values: Matern 5/2 with a length for each variable, fitted by its posterior mode.

Source: Rasmussen and Williams 2006, chapters 2, 4 and 5. The constant mean has a flat prior and is integrated out
(section 2.7, equations 2.42 and 2.45): it is estimated from the values, and what is not known of it is part of every
deviation. Values are standardised. Parameters are logarithms: a length for each variable, then the variances of signal
and noise; their priors are normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from meshtune.samplers.gp.space import Array, Indices

LENGTH, SIGNAL, NOISE = 0.6, 1.0, 0.01  # medians of the priors; the length's for four variables
SPREADS = (0.8, 1.0, 1.5)  # their deviations in logarithms
START = (0.5, 1.0, 0.02)
BOUNDS = ((0.05, 10.0), (0.05, 20.0), (1e-5, 1.0))
JITTER = 1e-8
FIRST_STEPS, NEXT_STEPS = 40, 8
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
        features: (n, columns). columns: the variable of each column. values: (n,), standardised.
    """

    def __init__(self, features: Array, columns: Indices, values: Array):
        n, self._variables = len(values), int(columns.max()) + 1
        self._values = values
        self._below = np.tril_indices(n, -1)
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
        matrix = np.zeros((n, n), order="F")
        matrix[self._below] = signal * correlation
        matrix[np.diag_indices(n)] = signal + noise + JITTER
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


def fitted(features: Array, columns: Indices, values: Array, start: Array | None = None) -> tuple[Array, float]:
    """The most likely parameters, and how likely they are: their negative log posterior.

    `start`: earlier parameters, from which a few steps are enough.
    """
    variables = int(columns.max()) + 1
    chosen = few(values, MOST_FITTED)
    features, values = features[chosen], values[chosen]
    first = np.log(_in_full(START, variables)) if start is None else start
    bounds = [BOUNDS[0]] * variables + list(BOUNDS[1:])
    found = minimize(
        Likelihood(features, columns, values),
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
        parameters: see `fitted`. columns: the variable of each feature. features: (n, columns). values: (n,).
        pending: features of points without a value yet.
    """

    parameters: Array
    columns: Indices
    features: Array
    values: Array
    pending: Array

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free value at points."""
        n = len(self.values)
        across = self._kernel(np.concatenate([self.features, self.pending]), features)
        solved = solve_triangular(self._lower, across, lower=True, check_finite=False)
        ones = solve_triangular(self._lower, np.ones(len(across)), lower=True, check_finite=False)
        of_mean = (1.0 - ones @ solved) ** 2 / (ones @ ones)
        variance = self._signal - np.einsum("ij,ij->j", solved, solved) + of_mean
        deviation: Array = np.sqrt(np.maximum(variance, 1e-12))
        return self._mean + across[:n].T @ self._weights, deviation

    @property
    def noise(self) -> float:
        """Standard deviation of one value's noise."""
        return float(np.exp(0.5 * self.parameters[-1]))

    @property
    def _signal(self) -> float:
        return float(np.exp(self.parameters[-2]))

    def _kernel(self, one: Array, other: Array) -> Array:
        lengths = np.exp(self.parameters[self.columns])
        return self._signal * matern(cdist(one / lengths, other / lengths, "sqeuclidean"))[0]

    @cached_property
    def _lower(self) -> Array:
        points = np.concatenate([self.features, self.pending])
        matrix = self._kernel(points, points)
        matrix[np.diag_indices(len(points))] += np.exp(self.parameters[-1]) + JITTER
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
