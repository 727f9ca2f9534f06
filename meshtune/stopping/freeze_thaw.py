"""One model of points and curves: what every trial of a study would end at, from where all of them stand.

A trial is a point and a curve: losses at some shares of its training, the last one at its end. The model is a Gaussian
process over both, in the manner of freeze-thaw (Swersky, Snoek and Adams, Freeze-Thaw Bayesian Optimization, 2014):

    loss(point, share) = mean(share) + end(point) + decay(share) course(point) + own(share) + noise

- `mean` is a curve that all trials have in common, free at every share: what a schedule does to all, such as a rate
  that decays.
- `end` is a Gaussian process over points, with batch-gp's kernel and features. A length for each variable.
- `course` is another: how far above its end a point still is, times a decay from 1 at the first share to 0 at the end.
  Swersky et al. have none, and learn of a curve's shape from that trial alone. But curves of large steps fall early and
  end high, and only other trials' curves say so: of the variants that were measured this one predicts best.
- `own` is a trial's own: what stays at the end, and what decays, with their kernel (a mixture of exponentials), made to
  be 0 at the end.
- `noise` is that of a measurement on the few rows of a rung; at the end there is none but the trial's own.

Losses are seen as logarithms above a floor, so that a hopeless trial weighs little and two good ones are told apart.
Trials of one pattern of shares share the factor of `own` and `noise`, and of a curve the rest of the model sees two
numbers, the end and the course (one where there is one loss). So 600 losses of 100 trials are one matrix of 200 rows.
The result is that of the plain solve. Parameters have priors, and are fitted to their posterior mode from the same
start: what is decided follows from the curves alone.

Nothing here reads a record or draws without a seed. A trial that diverged has no curve: leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.linalg.lapack import dtrtrs
from scipy.special import ndtr, ndtri

from meshtune.samplers.gp.model import matern
from meshtune.samplers.gp.space import Array, Indices

Measured = tuple[float, float]  # a share of the training above 0 and at most 1, and the loss there; at 1 its objective

FLOOR = 0.5  # of the floor below the lowest loss, in distances of the median trial from it
LEVEL, STEPS = 9.0, 1.0  # variances of the mean curve: common to all shares, and of each
MEDIANS = (1.0, 0.6, 1.0, 0.3, 0.03, 0.1, 0.3, 0.05)  # of the priors: of `Parameters` but the lengths
SPREADS = (1.0, 1.0, 0.5, 1.0, 0.7, 0.7, 1.0, 0.7)  # their deviations in logarithms
LENGTH, LENGTH_SPREAD = 0.6, 0.8  # of four variables
WITHIN = 4.0  # deviations of its prior that a parameter stays within
JITTER = 1e-6
FIRST_STEPS, NEXT_STEPS = 40, 8
MOST_WHOLE = 100  # trials whose curves are seen whole; of more, those that ended are their objective alone


class Parameters(NamedTuple):
    """All positive, and fitted as logarithms.

    Attributes:
        lengths: of the variables, for `end`. end, course: variances. longer: the lengths of `course` over these.
        bend, own_bend: the sooner a decay is over, the smaller. own, own_decay: variances of what stays at the end and
            of what decays. noise: variance of a measurement before the end.
    """

    lengths: Array
    end: float
    course: float
    longer: float
    bend: float
    own: float
    own_decay: float
    own_bend: float
    noise: float

    @classmethod
    def of(cls, logarithms: Array) -> Parameters:
        """From what is fitted."""
        values = np.exp(logarithms)
        return cls(values[: -len(MEDIANS)], *values[-len(MEDIANS) :].tolist())


@dataclass(frozen=True)
class Logarithm:
    """Losses above a floor, as logarithms, standardised."""

    floor: float
    unit: float
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, curves: Sequence[Sequence[Measured]]) -> Logarithm:
        """From the lowest loss and the median of where the trials stand."""
        losses = np.array([loss for curve in curves for _, loss in curve])
        last = np.array([curve[-1][1] for curve in curves])
        lowest, middle = losses.min(), np.median(last)
        unit = float((1 + FLOOR) * (middle - lowest)) or abs(float(lowest)) or 1.0
        raw = cls(float(middle) - unit, unit)
        return cls(raw.floor, unit, float(raw(last).mean()), float(raw(losses).std()) or 1.0)

    def __call__(self, losses: Array) -> Array:
        """As the model sees losses; those far below all others are seen as just above the floor."""
        above = np.maximum((losses - self.floor) / self.unit, 1e-3)
        return (np.log(above) - self.shift) / self.scale

    def back(self, seen: Array) -> Array:
        """The losses."""
        return self.floor + self.unit * np.exp(self.shift + self.scale * seen)


@dataclass(frozen=True)
class Curves:
    """What is known of n trials, at T shares.

    Attributes:
        features: (n, columns) of their points. columns: the variable of each column. shares: (T,), ascending, the last
            is 1. seen: (n, T), nan where nothing was measured; each has some.
    """

    features: Array
    columns: Indices
    shares: Array
    seen: Array

    @cached_property
    def patterns(self) -> list[tuple[Indices, Indices]]:
        """Trials that were measured at the same shares, with these."""
        there = np.isfinite(self.seen)
        kinds, kind = np.unique(there, axis=0, return_inverse=True)
        return [(np.flatnonzero(kind == k), np.flatnonzero(kinds[k])) for k in range(len(kinds))]

    @cached_property
    def known(self) -> Array:
        """(n, T, 1 + T): the losses, then which share each belongs to; nothing where nothing was measured."""
        there = np.isfinite(self.seen)
        rows = np.concatenate(
            [np.where(there, self.seen, 0.0)[:, :, None], there[:, :, None] * np.eye(there.shape[1])], 2
        )
        return cast("Array", rows)

    @cached_property
    def squares(self) -> Array:
        """(variables, n, n): squared distances by variable; the columns of a category share their length."""
        return _squares(self.features, self.features, self.columns)


def _squares(one: Array, other: Array, columns: Indices) -> Array:
    found = np.zeros((int(columns.max()) + 1, len(one), len(other)))
    for column, variable in enumerate(columns):
        found[variable] += (one[:, None, column] - other[None, :, column]) ** 2
    return found


def _decay(shares: Array, bend: float) -> Array:
    """(T,), from 1 at the first share to 0 at the end."""
    left = 1 / (shares + bend) - 1 / (1 + bend)
    return cast("Array", left / (left[0] or 1.0))


def _own_decay(shares: Array, bend: float) -> Array:
    """(T, T): a mixture of exponentials (Swersky et al., equation 6, with alpha 1), had the end been seen to be 0."""
    together = bend / (shares[:, None] + shares + bend)
    left = together - np.outer(together[-1], together[-1]) / together[-1, -1]
    return cast("Array", left / (left[0, 0] or 1.0))


def _solved(lower: Array, rows: Array, *, transposed: bool = False) -> Array:
    """L^-1 rows, or L'^-1 rows, by LAPACK itself: SciPy's checks take longer than solves as small as these."""
    found, singular = dtrtrs(lower.T, rows, lower=0, trans=0 if transposed else 1)
    if singular:
        raise np.linalg.LinAlgError(f"the factor has a zero at {singular}")
    return cast("Array", found)


class Halves(NamedTuple):
    """Of rows (n, T, c): L^-1 rows (n, T, c), Q' of that (2n, c), and the inner factor's inverse of that (2n, c)."""

    white: Array
    within: Array
    solved: Array

    def products(self, other: Halves) -> Array:
        """(c, d): rows' K^-1 other rows."""
        white = self.white.reshape(-1, self.white.shape[2]).T @ other.white.reshape(-1, other.white.shape[2])
        return white - self.within.T @ other.within + self.solved.T @ other.solved

    def squares(self) -> Array:
        """(c,): the diagonal of the products with themselves."""
        return cast("Array", (self.white**2).sum((0, 1)) - (self.within**2).sum(0) + (self.solved**2).sum(0))

    def first(self, count: int) -> Halves:
        """Of the first columns."""
        return Halves(self.white[:, :, :count], self.within[:, :count], self.solved[:, :count])


class Factor:
    """The covariance of all that was measured, factorised.

    With L a pattern's factor of `own` and noise, and L^-1 (1, decay) = Q U, the covariance in units of L is
    I + Q U C U' Q', where C is that of end and course over the trials: I + U C U' on the span of Q, and I beside it.
    """

    def __init__(self, curves: Curves, parameters: Parameters):
        self.curves, self.parameters = curves, parameters
        p = parameters
        n, size = curves.seen.shape
        weights = p.lengths**-2
        (self.end, self.end_slope), (self.course, self.course_slope) = (
            matern(np.tensordot(weights / longer**2, curves.squares, 1)) for longer in (1.0, p.longer)
        )
        self.decay = np.stack([np.ones(size), _decay(curves.shares, p.bend)], axis=1)
        self.own = p.own + p.own_decay * _own_decay(curves.shares, p.own_bend)
        self.own[np.diag_indices(size)] += JITTER + p.noise * (np.arange(size) < size - 1)
        self._lower: list[Array] = []
        self.span, self.inside = np.zeros((n, size, 2)), np.zeros((n, 2, 2))  # Q and U of each trial
        for members, at in curves.patterns:
            lower = cast("Array", np.linalg.cholesky(self.own[np.ix_(at, at)]))
            span, inside = np.linalg.qr(_solved(lower, self.decay[at]))
            self._lower.append(lower)
            self.span[members, : len(at), : span.shape[1]] = span
            self.inside[members, : len(inside)] = inside
        between = np.eye(2 * n)
        for variance, kernel, loading in zip((p.end, p.course), (self.end, self.course), self.loadings, strict=True):
            between += variance * np.kron(kernel, np.ones((2, 2))) * np.outer(loading, loading)
        self.between = cast("Array", np.linalg.cholesky(between))
        prior = np.linalg.inv(LEVEL + STEPS * np.eye(size))
        self._known = self.halves(curves.known)
        gram = self._known.products(self._known)
        self.sure = np.linalg.cholesky(gram[1:, 1:] + prior)  # of the mean curve: its precision
        self.of_losses, self._of_mean = gram[0, 0], gram[1:, 0]
        self.mean = cho_solve((self.sure, True), self._of_mean)

    @property
    def loadings(self) -> tuple[Array, Array]:
        """(2n,) each: of what the rest of the model sees of the trials, the parts of end and of course."""
        return self.inside[:, :, 0].ravel(), self.inside[:, :, 1].ravel()

    @cached_property
    def badness(self) -> float:
        """The negative log likelihood, but for a constant."""
        patterns = zip(self.curves.patterns, self._lower, strict=True)
        own = sum(len(members) * np.log(np.diag(lower)).sum() for (members, _), lower in patterns)
        whole = own + np.log(np.diag(self.between)).sum() + np.log(np.diag(self.sure)).sum()
        return float(0.5 * (self.of_losses - self.mean @ self._of_mean) + whole)

    def halves(self, rows: Array) -> Halves:
        """Of rows (n, T, c)."""
        white = np.zeros_like(rows)
        for (members, at), lower in zip(self.curves.patterns, self._lower, strict=True):
            block = rows[np.ix_(members, at)]
            flat = block.transpose(1, 0, 2).reshape(len(at), -1)
            solved = _solved(lower, flat)
            white[members, : len(at)] = solved.reshape(len(at), len(members), -1).transpose(1, 0, 2)
        within = np.einsum("itr,itc->irc", self.span, white).reshape(len(self.between), -1)
        return Halves(white, within, _solved(self.between, within))

    def solved(self, rows: Halves) -> Array:
        """K^-1 rows, (n, T, c)."""
        inner = _solved(self.between, rows.solved, transposed=True) - rows.within
        return self.unwhitened(rows.white + self.span @ inner.reshape(len(rows.white), 2, -1))

    def unwhitened(self, white: Array) -> Array:
        """L'^-1 rows, (n, T, c)."""
        found = np.zeros_like(white)
        for (members, at), lower in zip(self.curves.patterns, self._lower, strict=True):
            flat = white[members, : len(at)].transpose(1, 0, 2).reshape(len(at), -1)
            solved = _solved(lower, flat, transposed=True)
            found[np.ix_(members, at)] = solved.reshape(len(at), len(members), -1).transpose(1, 0, 2)
        return found

    def predicted(self, across: Array) -> tuple[Array, Halves, Array]:
        """At the end, of what has these covariances (n, T, c) with the losses: the mean (c,), and what its covariance
        loses by the losses, and gains by a mean curve that is not known for sure, as halves (T, c).
        """
        halves = self.halves(across)
        of_known = self._known.products(halves)
        left = np.eye(len(self.mean))[:, -1:] - of_known[1:]
        mean = self.mean[-1] + of_known[0] - self.mean @ of_known[1:]
        return mean, halves, _solved(self.sure, left)

    def gradient(self) -> Array:
        """Of `badness`, by the logarithms of the parameters."""
        p, curves, (n, size) = self.parameters, self.curves, self.curves.seen.shape
        solved = self.solved(self._known)
        of_mean = _solved(self.sure, solved[:, :, 1:].reshape(n * size, size).T)
        of_mean = of_mean.T.reshape(n, size, size)
        residual = solved[:, :, 0] - solved[:, :, 1:] @ self.mean
        inverse = cho_solve((self.between, True), np.eye(2 * n), check_finite=False)
        by_kernel = []
        for k, loading in enumerate(self.loadings):
            seen, mean = residual @ self.decay[:, k], self.decay[:, k] @ of_mean
            inner = (inverse * np.outer(loading, loading)).reshape(n, 2, n, 2).sum((1, 3))
            by_kernel.append(0.5 * (inner - mean @ mean.T - np.outer(seen, seen)))
        scaled = [p.end * by_kernel[0] * self.end_slope, p.course * by_kernel[1] * self.course_slope]
        by_square = scaled[0] + scaled[1] / p.longer**2
        by_length = -2 * np.tensordot(curves.squares, by_square, 2) * p.lengths**-2
        both = -2 * np.tensordot(curves.squares, scaled[1], 2) @ p.lengths**-2 / p.longer**2
        found = [
            *by_length,
            p.end * (by_kernel[0] * self.end).sum(),
            p.course * (by_kernel[1] * self.course).sum(),
            both,
        ]
        # The decay of the course.
        kernel = p.course * self.course
        loading = self.loadings[1].reshape(n, 2)
        inner = np.einsum("irjs,js,ji->ir", inverse.reshape(n, 2, n, 2), loading, kernel, optimize=True)
        by_decay = self.unwhitened(self.span @ inner[:, :, None])[:, :, 0]
        by_decay -= np.einsum("itm,im->it", of_mean, kernel @ (self.decay[:, 1] @ of_mean))
        by_decay -= residual * (kernel @ (residual @ self.decay[:, 1]))[:, None]
        found.append(by_decay.sum(0) @ _slope(_decay, curves.shares, p.bend))
        # A trial's own.
        by_own = -np.einsum("itm,ism->ts", of_mean, of_mean) - residual.T @ residual
        each = np.einsum("irjs,ij->rsi", inverse.reshape(n, 2, n, 2), np.eye(n))
        for (members, at), lower in zip(curves.patterns, self._lower, strict=True):
            span = self.span[members[0], : len(at)]
            inner = span @ (each[:, :, members].sum(2) - len(members) * np.eye(2)) @ span.T
            half = _solved(lower, inner + len(members) * np.eye(len(at)), transposed=True)
            by_own[np.ix_(at, at)] += _solved(lower, half.T, transposed=True)
        by_own *= 0.5
        found += [
            p.own * by_own.sum(),
            p.own_decay * (by_own * _own_decay(curves.shares, p.own_bend)).sum(),
            p.own_decay * (by_own * _slope(_own_decay, curves.shares, p.own_bend)).sum(),
            p.noise * np.diag(by_own)[:-1].sum(),
        ]
        return np.array(found)


def _slope(function: Callable[[Array, float], Array], shares: Array, bend: float) -> Array:
    """By the logarithm of the bend."""
    step = 1e-5
    return (function(shares, bend * math.exp(step)) - function(shares, bend * math.exp(-step))) / (2 * step)


@dataclass(frozen=True)
class Finals:
    """What some trials would end at, as the model sees losses.

    Attributes:
        mean, covariance: (c,) and (c, c). logarithm: from losses and back.
    """

    mean: Array
    covariance: Array
    logarithm: Logarithm

    @property
    def deviation(self) -> Array:
        """(c,)"""
        return cast("Array", np.sqrt(np.maximum(np.diag(self.covariance), 1e-12)))

    def at(self, share: float) -> Array:
        """(c,): the losses below which each ends with this chance; .5 for the median."""
        return self.logarithm.back(self.mean + ndtri(share) * self.deviation)

    @property
    def spread(self) -> Array:
        """(c,): the deviations as losses, at the medians."""
        return (self.at(0.5) - self.logarithm.floor) * self.logarithm.scale * self.deviation

    def below(self, loss: float) -> Array:
        """(c,): the chance of each to end below a loss."""
        if loss == math.inf:
            return np.ones(len(self.mean))
        return cast("Array", ndtr((self.logarithm(np.array(loss)) - self.mean) / self.deviation))

    def draws(self, count: int, seed: int = 0) -> Array:
        """(count, c): losses drawn jointly."""
        values, axes = np.linalg.eigh(self.covariance)
        half = axes * np.sqrt(np.maximum(values, 0.0))
        drawn = np.random.default_rng(seed).standard_normal((count, len(values)))
        return self.logarithm.back(self.mean + drawn @ half.T)


@dataclass(frozen=True)
class Model:
    """What is believed of n trials.

    Attributes:
        curves, parameters, logarithm: see there.
    """

    curves: Curves
    parameters: Parameters
    logarithm: Logarithm

    @cached_property
    def factor(self) -> Factor:
        """Of all that was measured."""
        return Factor(self.curves, self.parameters)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """(n,): which trials were measured at their end."""
        return np.isfinite(self.curves.seen[:, -1])

    @property
    def stands(self) -> Array:
        """(n,): the last share at which each trial was measured."""
        there = np.isfinite(self.curves.seen)
        return cast("Array", (there * self.curves.shares).max(1))

    @property
    def best(self) -> float:
        """The lowest loss at an end; infinite where there is none."""
        ends = self.curves.seen[self.finished, -1]
        return float(self.logarithm.back(ends.min())) if len(ends) else math.inf

    def final(self, points: Array | None = None) -> Finals:
        """What all trials end at, in their order, then new points (m, columns)."""
        curves, p = self.curves, self.parameters
        features = curves.features if points is None else np.concatenate([curves.features, points])
        within = _kernel(features, features, curves.columns, p)
        own = p.own * np.eye(len(features))
        n = len(curves.features)
        mean, halves, unsure = self.factor.predicted(self._across(within[:n], own[:n]))
        covariance = within + own - halves.products(halves) + unsure.T @ unsure
        return Finals(mean, covariance, self.logarithm)

    def end(self, points: Array, pending: Array) -> tuple[Array, Array]:
        """Mean and deviation of what points (m, columns) end at but for what is a trial's own, as the model sees it.

        `pending`: points (q, columns) whose ends will be known: they make it surer only.
        """
        curves, p = self.curves, self.parameters
        features = np.concatenate([pending, points])
        q, n = len(pending), len(curves.features)
        across = self._across(_kernel(curves.features, features, curves.columns, p), np.zeros((n, len(features))))
        mean, halves, unsure = self.factor.predicted(across)
        variance = p.end - halves.squares() + (unsure**2).sum(0)
        if q:
            near = _kernel(pending, features, curves.columns, p) - halves.first(q).products(halves)
            near += unsure[:, :q].T @ unsure
            lower = cast("Array", np.linalg.cholesky(near[:, :q] + p.own * np.eye(q)))
            variance -= (_solved(lower, near) ** 2).sum(0)
        return mean[q:], np.sqrt(np.maximum(variance[q:], 1e-12))

    def _across(self, end: Array, own: Array) -> Array:
        """(n, T, c): covariances of all that was measured with what others end at, from those of ends (n, c)."""
        there = np.isfinite(self.curves.seen)
        return cast("Array", there[:, :, None] * (end + own)[:, None, :])


def _kernel(one: Array, other: Array, columns: Indices, parameters: Parameters) -> Array:
    """Covariances of ends."""
    squares = np.tensordot(parameters.lengths**-2, _squares(one, other, columns), 1)
    return parameters.end * matern(squares)[0]


def fit(
    points: Array,
    columns: Indices,
    curves: Sequence[Sequence[Measured]],
    start: Parameters | None = None,
) -> Model:
    """The model of these trials.

    Args:
        points: (n, columns) features, as `Cube.features` of batch-gp makes them. columns: the variable of each column.
        curves: of each trial what was measured, one at least, at ascending shares; finite.
        start: parameters of an earlier model, from which few steps are enough.
    """
    from scipy.optimize import minimize  # a third of a second, for those who have something to fit

    logarithm = Logarithm.of(curves)
    known = _known(points, columns, curves, logarithm)
    variables = int(columns.max()) + 1
    medians = np.log([LENGTH * math.sqrt(variables / 4)] * variables + list(MEDIANS))
    spreads = np.array([LENGTH_SPREAD] * variables + list(SPREADS))

    def badness(logarithms: Array) -> tuple[float, Array]:
        factor = Factor(known, Parameters.of(logarithms))
        away = (logarithms - medians) / spreads
        return factor.badness + 0.5 * float(away @ away), factor.gradient() + away / spreads

    found = minimize(
        badness,
        medians if start is None else np.log(np.concatenate([start.lengths, start[1:]])),
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([medians - WITHIN * spreads, medians + WITHIN * spreads], axis=1),
        options={"maxiter": FIRST_STEPS if start is None else NEXT_STEPS},
    )
    return Model(known, Parameters.of(found.x), logarithm)


def updated(model: Model, points: Array, curves: Sequence[Sequence[Measured]]) -> Model:
    """The same parameters, with what is known of these trials by now: nothing is fitted anew while they run."""
    return Model(_known(points, model.curves.columns, curves, model.logarithm), model.parameters, model.logarithm)


def _known(points: Array, columns: Indices, curves: Sequence[Sequence[Measured]], logarithm: Logarithm) -> Curves:
    shares = np.array(sorted({share for curve in curves for share, _ in curve} | {1.0}))
    seen = np.full((len(curves), len(shares)), np.nan)
    for row, curve in zip(seen, curves, strict=True):
        for share, loss in curve[-1:] if len(curves) > MOST_WHOLE and curve[-1][0] == 1 else curve:
            row[np.searchsorted(shares, share)] = logarithm(np.array(loss))
    return Curves(points, columns, shares, seen)
