"""Early-stopping rules: the curves of a study's trials in, thresholds and predictions out.

A trial is measured at rungs, fixed shares of its training, and ends at one where its loss is above the threshold there.
Who asks gives the curves as they are at that moment, unfinished ones among them. Every result is the same to
the last bit whatever the order of the curves, and no scale is assumed: where all losses are moved or multiplied, so are
the thresholds. Losses may be infinite, never not-a-number. All curves are of one schedule (same rows, same epochs);
nothing here reads a record or knows of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Rule = Literal["median", "asha", "curve"]

FEWEST_PAIRS = 3  # that a regression needs
LOCAL_PAIRS = 10  # a regression looks at the better half of its pairs, but not at fewer than these
PRIOR_PAIRS = 2.0  # worth of pairs that lie on a slope of one
OUTLYING = 3.0  # deviations past which a pair pulls no harder


@dataclass(frozen=True)
class Curve:
    """What is known of one trial.

    Attributes:
        rungs: its losses at the first rungs, as many as it reached, those included at which it ended.
        final: its objective, where it ran to the end, else None.
    """

    rungs: tuple[float, ...]
    final: float | None = None


@dataclass(frozen=True)
class Prediction:
    """What the objective of a trial would be at its end: mean and standard deviation, in the objective's unit."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Stopping:
    """One early-stopping rule.

    - `median`: a trial ends above the median of the losses that the others had at that rung (Golovin et al., Google
      Vizier, KDD 2017, section 3.2.2; as in Optuna's MedianPruner, without Vizier's running averages).
    - `asha`: it ends unless it is among the best `keep` of that rung so far: asynchronous successive halving (Li et
      al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020), reduced by 1/`keep` at each rung.
    - `curve`: it ends where the chance that its final loss is below the best one, give or take its noise, is under
      1 - `confidence`. The final loss is extrapolated from the trials before it, not by a law of learning curves: see
      `Extrapolation`. While fewer than three trials have finished, it is `asha`.

    Attributes:
        rungs: shares of the training, ascending, above 0 and below 1.
        startup: while fewer trials have reached the end, no trial is stopped.
        keep: at each rung the best so many (a share, rounded up) of those that were ever there would go on.
        confidence: of `curve`, and of what is `promising`: above .5 and below 1.
    """

    rule: Rule
    rungs: Sequence[float]
    _: KW_ONLY
    startup: int = 5
    keep: float = 0.25
    confidence: float = 0.9

    def thresholds(self, curves: Sequence[Curve], noise: float | None = None) -> tuple[float | None, ...]:
        """Per rung the loss above which a trial ends there, finite; None: it goes on whatever its loss.

        Args:
            curves: of the trials that have ended, and of those that run, as far as they are.
            noise: of `curve`, added to the best loss, since the lowest of many is a lucky one: the deviation between
                seeds. None: what the losses at the last rung leave open of those at the end.
        """
        if self.keep >= 1 or sum(curve.final is not None for curve in curves) < self.startup:
            return (None,) * len(self.rungs)
        extrapolation = Extrapolation(curves, len(self.rungs)) if self.rule == "curve" else None
        found: list[float | None] = []
        for rung in range(len(self.rungs)):
            losses = sorted(curve.rungs[rung] for curve in curves if len(curve.rungs) > rung)
            threshold = math.inf
            if losses:
                threshold = losses[math.ceil(self.keep * len(losses)) - 1]
                if self.rule == "median":
                    threshold = max(threshold, float(np.median(losses)))
                if extrapolation is not None:
                    threshold = max(threshold, extrapolation.hopeless(rung, self.confidence, noise))
            found.append(threshold if math.isfinite(threshold) else None)
        return tuple(found)

    def predicted(self, curves: Sequence[Curve], curve: Curve) -> Prediction | None:
        """What a curve would have ended at, by its last rung, under any rule; None where too little is known."""
        return Extrapolation(curves, len(self.rungs)).predicted(curve)

    def predicted_value(self, curves: Sequence[Curve], curve: Curve) -> float | None:
        """The value that a sampler gets of a trial that was stopped: what it would have ended at, but above the best.

        Where a line cannot be fitted, as where losses at a rung are all the same, it is taken to go on as the median of
        those that finished. None: none has finished, or its loss is infinite.
        """
        extrapolation = Extrapolation(curves, len(self.rungs))
        prediction = extrapolation.predicted(curve)
        mean = _as_the_others(curves, curve) if prediction is None else prediction.mean
        return None if mean is None else max(mean, math.nextafter(extrapolation.best, math.inf))

    def promising(self, curves: Sequence[Curve], limit: int, noise: float = 0.0) -> list[int]:
        """Which stopped trials could still be the best, as positions in `curves`, at most `limit`.

        Those whose chance to end below the best loss plus `noise` is at least 1 - `confidence`, largest chance first.
        What is expected to end above the median of those that finished is not among them: far from all others the
        chance comes from knowing nothing.
        """
        extrapolation = Extrapolation(curves, len(self.rungs))
        finals = [curve.final for curve in curves if curve.final is not None]
        typical = float(np.median(finals)) if finals else math.inf
        chances = [
            (-chance, curve.rungs, position)
            for position, curve in enumerate(curves)
            if curve.final is None
            and (chance := extrapolation.chance(curve, noise)) is not None
            and chance >= 1 - self.confidence
            and (expected := extrapolation.predicted(curve)) is not None
            and expected.mean <= max(typical, extrapolation.best + noise)
        ]
        return [position for _, _, position in sorted(chances)[:limit]]

    def worth_more(self, curves: Sequence[Curve], noise: float = 0.0) -> list[int]:
        """Which stopped trials promise more for each token that they have left than a new point, as positions in
        `curves`, the most promising first.

        All that are `promising` can. A new point is the best of n + 1 with the chance of one in n + 1, as where they
        come in no order of worth, and takes as many tokens as those so far did in the mean.
        """
        trained = [1.0 if curve.final is not None else self.share(curve) for curve in curves]
        new = 1 / (len(curves) + 1) / max(float(np.mean(trained)), 1e-9)
        worth = self.worth(curves, noise)
        likely = self.promising(curves, len(curves), noise)
        found = [(-worth[position], curves[position].rungs, position) for position in likely if worth[position] > new]
        return [position for *_, position in sorted(found)]

    def worth(self, curves: Sequence[Curve], noise: float = 0.0) -> list[float]:
        """Of each the chance to end below the best plus `noise`, over the share of its training that it has left; 0
        where it has ended, or too little is known.
        """
        extrapolation = Extrapolation(curves, len(self.rungs))
        return [
            0.0 if curve.final is not None else (extrapolation.chance(curve, noise) or 0.0) / (1 - self.share(curve))
            for curve in curves
        ]

    def share(self, curve: Curve) -> float:
        """Of a training, at the last rung that a curve reached."""
        return self.rungs[len(curve.rungs) - 1] if curve.rungs else 0.0


@dataclass(frozen=True)
class _Line:
    """A straight line, `level + slope x`, whose variance is a quadratic in x (three coefficients, from the constant).

    `freedom`: degrees of freedom of the variance.
    """

    level: float
    slope: float
    variance: tuple[float, float, float]
    freedom: float

    def at(self, x: float) -> Prediction:
        """The value at x."""
        constant, linear, square = self.variance
        return Prediction(self.level + self.slope * x, math.sqrt(max(0.0, constant + x * (linear + x * square))))

    def least(self) -> float:
        """The smallest deviation, where most of the pairs are."""
        constant, linear, square = self.variance
        return math.sqrt(max(0.0, constant - linear**2 / (4 * square))) if square else 0.0

    def then(self, later: _Line) -> _Line:
        """The line from what this one starts from to what `later` predicts, which is fed an uncertain value."""
        constant, linear, square = later.variance
        of_mean = (
            constant + self.level * (linear + self.level * square),
            self.slope * (linear + 2 * self.level * square),
            self.slope**2 * square,
        )
        spread = later.slope**2 + square
        first, second, third = (there + spread * here for there, here in zip(of_mean, self.variance, strict=True))
        return _Line(
            level=later.level + later.slope * self.level,
            slope=later.slope * self.slope,
            variance=(first, second, third),
            freedom=min(self.freedom, later.freedom),
        )

    def above(self, value: float, confidence: float) -> float:
        """The x from which on the value at x is above `value` with this confidence (over .5).

        Infinite where the slope is not above zero with this confidence: then no x is far enough.
        """
        quantile = float(stdtrit(self.freedom, confidence))
        margin = self.level - value
        # (margin + slope x)^2 = quantile^2 variance(x), of which the upper root is the one above `value`.
        square = self.slope**2 - quantile**2 * self.variance[2]
        half = self.slope * margin - quantile**2 * self.variance[1] / 2
        constant = margin**2 - quantile**2 * self.variance[0]
        if self.slope <= 0 or square <= 0:
            return math.inf
        return (-half + math.sqrt(max(0.0, half**2 - square * constant))) / square


class Extrapolation:
    """Final losses from rung losses, learned from the other trials of the study.

    A law fitted to the start of one curve, as by Domhan et al. (IJCAI 2015), knows nothing of a learning rate that is
    still to decay, while trials of one schedule share what is to come. So the map from one rung to the next, and from
    the last to the end, is a linear regression over the trials, and a prediction goes through them in turn, each adding
    its variance. Each regression has all trials that were at both its ends. Those that ended between the two were
    chosen by the loss that it starts from, which leaves it unbiased, though the trials that finished are a selected
    group (Anderson, Journal of the American Statistical Association 52, 1957: monotone patterns of missing values).

    A regression has a flat intercept (the rungs' rows are others than the objective's), a slope drawn to one by the
    worth of two pairs (Zellner's g-prior), looks at the better half of the trials, where the decision is, and bounds
    the pull of outliers (Huber 1964). Its deviations include those of its coefficients.
    """

    def __init__(self, curves: Iterable[Curve], rungs: int) -> None:
        curves = sorted(curves, key=lambda curve: (curve.rungs, math.inf if curve.final is None else curve.final))
        finals = [curve.final for curve in curves if curve.final is not None and math.isfinite(curve.final)]
        self.best = min(finals, default=math.inf)  # infinite: none has finished
        self._lines: list[_Line | None] = []
        later: _Line | None = None
        for rung in reversed(range(rungs)):
            pairs = np.array(list(_pairs(curves, rung, rungs)), dtype=float).reshape(-1, 2)
            line = _regression(pairs - self.best) if finals else None
            later = line if rung == rungs - 1 else line.then(later) if line is not None and later is not None else None
            self._lines.insert(0, later)

    def predicted(self, curve: Curve) -> Prediction | None:
        """What `curve` would end at, by its last rung; None where too little is known or its loss is infinite."""
        line = self._line(curve)
        if line is None:
            return None
        found = line.at(curve.rungs[-1] - self.best)
        return Prediction(self.best + found.mean, found.deviation)

    def chance(self, curve: Curve, noise: float) -> float | None:
        """The probability that `curve` would end below the best plus `noise`; None as for `predicted`."""
        line = self._line(curve)
        if line is None:
            return None
        found = line.at(curve.rungs[-1] - self.best)
        margin = noise - found.mean
        return float(stdtr(line.freedom, margin / found.deviation)) if found.deviation else float(margin > 0)

    def hopeless(self, rung: int, confidence: float, noise: float | None) -> float:
        """The loss at a rung above which the chance to end below the best plus `noise` is under 1 - `confidence`.

        Without `noise` it is the deviation of the last regression. The answer is infinite where the slope is too
        uncertain for any loss to be hopeless, and minus infinite where too little is known for a regression.
        """
        line, last = self._lines[rung], self._lines[-1]
        if line is None or last is None:
            return -math.inf
        return self.best + line.above(last.least() if noise is None else noise, confidence)

    def _line(self, curve: Curve) -> _Line | None:
        """From its last rung to the end."""
        return self._lines[len(curve.rungs) - 1] if curve.rungs and math.isfinite(curve.rungs[-1]) else None


def _as_the_others(curves: Iterable[Curve], curve: Curve) -> float | None:
    """The last loss of a curve, moved by what those that finished have gained since, in the median."""
    last = len(curve.rungs) - 1
    gains = [each.final - each.rungs[last] for each in curves if each.final is not None and len(each.rungs) > last]
    gains = [gain for gain in gains if math.isfinite(gain)]
    found = curve.rungs[last] + float(np.median(gains)) if gains and curve.rungs else math.inf
    return found if math.isfinite(found) else None


def _pairs(curves: Iterable[Curve], rung: int, rungs: int) -> Iterator[tuple[float, float]]:
    """The finite losses at a rung with those at the next, or at the end."""
    for curve in curves:
        if len(curve.rungs) <= rung:
            continue
        later = curve.final if rung == rungs - 1 else curve.rungs[rung + 1] if len(curve.rungs) > rung + 1 else None
        if later is not None and math.isfinite(later) and math.isfinite(curve.rungs[rung]):
            yield curve.rungs[rung], later


def _regression(pairs: NDArray[np.float64]) -> _Line | None:
    """The line through pairs (n, 2), sorted by their first; None where there are too few, or all at one place."""
    if len(pairs) < FEWEST_PAIRS:
        return None
    local = max(LOCAL_PAIRS, math.ceil(len(pairs) / 2))
    x, y = pairs[pairs[:, 0] <= pairs[:local, 0].max()].T
    if x[0] == x[-1]:
        return None
    usual = int(0.8 * (len(x) - 1))  # of sizes in ascending order: four fifths of a normal distribution are within 1.28
    slope, centre, level = 1.0, np.median(x), np.median(x) + np.median(y - x)
    for _ in range(10):
        sizes = np.abs(y - level - slope * (x - centre))
        limit = OUTLYING * np.sort(sizes)[usual] / 1.2816
        weights = np.ones(len(x))
        if limit > 0:
            weights[sizes > limit] = limit / sizes[sizes > limit]
        total = weights.sum()
        centre, level = weights @ x / total, weights @ y / total
        weighted = weights * (x - centre)
        across = weighted @ (x - centre)
        prior = PRIOR_PAIRS / total
        slope = (weighted @ (y - level) / across + prior) / (1 + prior)
    residuals = weights * (y - level - slope * (x - centre))
    freedom = total - 1 - 1 / (1 + prior)
    variance = residuals @ residuals / freedom
    tilt = variance / (across * (1 + prior))
    return _Line(
        level=float(level - slope * centre),
        slope=float(slope),
        variance=(
            float(variance * (1 + 1 / total) + tilt * centre**2),
            float(-2 * tilt * centre),
            float(tilt),
        ),
        freedom=float(freedom),
    )
