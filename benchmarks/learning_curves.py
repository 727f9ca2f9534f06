"""Learning curves at any point of the space `recommended`: the stored table of real ones, and a surrogate of it.

The surrogate is made of logarithms: of the validation loss above a floor, which lies a little below the table's least
loss at each rung. It is a Gaussian process (Matern 5/2, a length a variable, likelihood maximised) over log step, log
rank, log scale and dropout for each principal component of the curves that are the means of two seeds.

To it comes what seeds do, from the differences of the table's two seeds. What points of like losses have in common
of them is what one seed does to all trials of a study, up or down: trials of a study have one seed. What is left of the
difference at one of these points, drawn by the point and the study's seed, is the trial's own. Both are whole curves,
so that they are correlated along the curve as they really are. The same point and seed always have the same curve.

`Borrowing` is a surrogate of a long table of `curves/make.py` that has few points yet and one seed. It sees, beside the
point, what the short table's surrogate says of it, and borrows from that one what seeds do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

TABLE = Path(__file__).parent / "curves" / "embedded.jsonl"
GAP = 0.2  # of the floor below the least loss, in distances of the median from it
EXPLAINED = 0.999  # of the variance, by the components that are kept
NEAREST = 10  # points whose difference between seeds may be drawn
RANGES = {"rank_log2": (2.0, 8.0), "scale_log2": (-2.0, 5.0), "dropout_index": (0.0, 2.0), "step": (-3.0, 0.0)}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """What `curves/make_short.py` made.

    Attributes:
        fractions: at which rungs were asked for, and the epochs' ends; the last is 1.
        tokens: the share of a training's tokens that is done when they are measured: a step may go past a rung.
        params, curves: by (point, seed): parameters, and losses at the fractions.
    """

    header: Mapping[str, Any]
    fractions: tuple[float, ...]
    tokens: tuple[float, ...]
    params: Mapping[tuple[int, int], Mapping[str, Any]]
    curves: Mapping[tuple[int, int], Array]

    @classmethod
    def read(cls, path: Path = TABLE) -> Table:
        """The whole lines of a table. Trainings that diverged have no curve, and are left out."""
        head, *lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        rungs, epochs = head["rungs"], head["training"]["epochs"]
        ends = [epoch / epochs for epoch in range(1, epochs + 1)]
        places = sorted(
            [*((share, "rungs", k) for k, share in enumerate(rungs)), *((s, "", k) for k, s in enumerate(ends))]
        )
        params, curves, tokens = {}, {}, []
        for line in lines:
            if line["ending"] != "complete":
                continue
            key = line["point"], line["seed"]
            params[key] = line["params"]
            curves[key] = np.array([line["rungs"][k][1] if kind else line["losses"][k] for _, kind, k in places])
            tokens.append([line["rungs"][k][0] / line["tokens"] if kind else share for share, kind, k in places])
        shares = tuple(np.mean(tokens, axis=0).tolist())
        return cls(head, tuple(share for share, *_ in places), shares, params, curves)

    @property
    def pairs(self) -> list[int]:
        """Points with curves of two seeds."""
        return sorted(
            {point for point, _ in self.curves if point >= 0 and {(point, 0), (point, 1)} <= self.curves.keys()}
        )


def unit(params: Mapping[str, Any]) -> Array:
    """A point's place in the unit cube, log step first."""
    values = {**params, "step": math.log10(params["step"])}
    return np.array([(values[name] - low) / (high - low) for name, (low, high) in RANGES.items()])


class Surface:
    """A Gaussian process over places in the unit cube. `left_out`: each value as it is predicted without itself."""

    def __init__(self, places: Array, values: Array):
        self.places, self.mean, self.scale = places, values.mean(), values.std() or 1.0
        self._values = (values - self.mean) / self.scale
        starts = [
            np.array([math.log(length)] * places.shape[1] + [0.0, math.log(noise)])
            for length in (0.5, 1.5)
            for noise in (0.01, 0.1)
        ]
        bounds = [(math.log(0.05), math.log(20))] * places.shape[1] + [(-3.0, 4.0), (math.log(1e-5), math.log(2.0))]
        found = [minimize(self._badness, start, bounds=bounds, method="L-BFGS-B") for start in starts]
        self.parameters = min(found, key=lambda each: each.fun).x
        self._factor = cho_factor(self._covariance(self.parameters))
        self._weights = cho_solve(self._factor, self._values)
        inverse = cho_solve(self._factor, np.eye(len(places)))
        self.left_out = values - self.scale * self._weights / np.diag(inverse)

    def __call__(self, place: Array) -> float:
        near = self._kernel(self.places, place[None], self.parameters)[:, 0]
        return float(self.mean + self.scale * (near @ self._weights))

    def _badness(self, parameters: Array) -> float:
        """The negative logarithm of the posterior, with weak priors."""
        lower, _ = factor = cho_factor(self._covariance(parameters))
        fit = 0.5 * self._values @ cho_solve(factor, self._values) + np.log(np.diag(lower)).sum()
        lengths, signal, noise = parameters[:-2], parameters[-2], parameters[-1]
        prior = ((lengths - math.log(0.6)) ** 2).sum() / 1.28 + signal**2 / 2 + (noise - math.log(0.01)) ** 2 / 4.5
        return float(fit + prior)

    def _covariance(self, parameters: Array) -> Array:
        kernel = self._kernel(self.places, self.places, parameters)
        return kernel + math.exp(parameters[-1]) * np.eye(len(kernel))

    @staticmethod
    def _kernel(one: Array, other: Array, parameters: Array) -> Array:
        scaled = (one[:, None] - other[None]) / np.exp(parameters[:-2])
        distance = np.sqrt(5 * (scaled**2).sum(-1) + 1e-12)
        kernel: Array = math.exp(parameters[-2]) * (1 + distance + distance**2 / 3) * np.exp(-distance)
        return kernel


class Surrogate:
    """Curves at any point; see the module.

    Attributes:
        fractions, tokens: as the table's. points: those that it stands on.
        deviation: between seeds, of the loss at the end, over the best fifth of the points. own: what of it is not
            common to all of them.
        error: of the loss at the end, each point predicted without itself, against the mean of its two seeds: mean
            absolute difference over the better half of the points. explained: share of the variance of the logarithm
            that such predictions explain, over all.
        ends: the fractions whose lowest loss is the objective.
    """

    def __init__(self, table: Table):
        self.fractions, self.tokens = table.fractions, table.tokens
        self.ends = (0.5, 1.0)
        points = table.pairs
        self.points = len(points)
        places = np.array([unit(table.params[point, 0]) for point in points])
        losses = np.array([[table.curves[point, seed] for seed in (0, 1)] for point in points])
        least = losses.min((0, 1))
        self._floor = least - GAP * (np.median(losses, (0, 1)) - least)
        both = np.log(losses - self._floor)
        means = both.mean(1)
        self._centre = means.mean(0)
        _, sizes, axes = np.linalg.svd(means - self._centre, full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(sizes**2) / (sizes**2).sum(), EXPLAINED)) + 1
        self._axes = axes[:kept]
        scores = (means - self._centre) @ self._axes.T
        self._widths = scores[:, :2].std(0)
        self._surfaces = [Surface(places, score) for score in scores.T]
        left_out = self._centre + np.array([surface.left_out for surface in self._surfaces]).T @ self._axes
        self.explained = float(1 - ((left_out - means)[:, -1] ** 2).mean() / means[:, -1].var())
        order = np.argsort(means[:, -1])
        half, fifth = order[: max(5, len(points) // 2)], order[: max(5, len(points) // 5)]
        self.error = float(np.abs(np.exp(left_out) - np.exp(means))[half, -1].mean())
        ends = losses[fifth, :, -1]
        self.deviation = float(np.sqrt(((ends[:, 1] - ends[:, 0]) ** 2).mean() / 2))
        self.own = float((ends[:, 1] - ends[:, 0]).std(ddof=1) / math.sqrt(2))
        self._ends = means[:, -1]
        differences = (both[:, 1] - both[:, 0]) / math.sqrt(2)
        near = np.argsort(np.abs(self._ends[:, None] - self._ends), axis=1, kind="stable")[:, :NEAREST]
        self._common = differences[near].mean(1)
        self._own = (differences - self._common) * math.sqrt(NEAREST / (NEAREST - 1))

    def mean(self, params: Mapping[str, Any]) -> Array:
        """Losses at the fractions, without what seeds do."""
        return self._loss(self._smooth(params))

    def curve(self, params: Mapping[str, Any], seed: int) -> Array:
        """Losses at the fractions."""
        smooth = self._smooth(params)
        return self._loss(smooth + self.noise(smooth[-1], params, seed))

    def noise(self, end: float, params: Mapping[str, Any], seed: int) -> Array:
        """What a seed does to the logarithm of a point that ends there."""
        near = np.argsort(np.abs(self._ends - end), kind="stable")[:NEAREST]
        up = np.random.default_rng(seed).choice((-1.0, 1.0))
        place = np.array([params[name] for name in sorted(RANGES)], dtype=float)
        own = np.random.default_rng([seed, *np.frombuffer(place.tobytes(), dtype=np.uint32).tolist()])
        noise: Array = up * self._common[near].mean(0) + own.choice((-1.0, 1.0)) * self._own[own.choice(near)]
        return noise

    def _smooth(self, params: Mapping[str, Any]) -> Array:
        place = unit(params)
        smooth: Array = self._centre + np.array([surface(place) for surface in self._surfaces]) @ self._axes
        return smooth

    def _loss(self, logarithm: Array) -> Array:
        loss: Array = self._floor + np.exp(logarithm)
        return loss

    def seen(self, params: Mapping[str, Any]) -> Array:
        """A point for `Borrowing`: its place, and its first two components, about as wide."""
        scores = (self._smooth(params) - self._centre) @ self._axes[:2].T
        return np.concatenate([unit(params), 0.3 * scores / self._widths])

    def end(self, rank: float) -> float:
        """Where the point ends, as a logarithm, that has this rank among all, from 0 to 1."""
        return float(np.quantile(self._ends, rank))

    def spread(self) -> tuple[float, float]:
        """Deviations of the logarithm at the end, over the best fifth: between seeds, and what is a trial's own."""
        best = np.argsort(self._ends)[: max(5, self.points // 5)]
        own = (self._own[best, -1] ** 2).mean()
        return math.sqrt(own + (self._common[best, -1] ** 2).mean()), math.sqrt(own)


RUNGS = (0.04, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a long table's shares: the first is past the warm-up


class Borrowing:
    """Curves at any point, of a long table; see the module, and `Surrogate` for the attributes.

    Args:
        table: `TASK-252.jsonl`. short: surrogate of the short table. trainings: of the table the first so many; None:
            all. Those with `wsd` of the first seed count, but what diverged.
    """

    def __init__(self, table: Path, short: Surrogate, trainings: int | None = None):
        head, *lines = [json.loads(line) for line in table.read_text(encoding="utf-8").split("\n")[:-1]]
        kept = [x for x in lines[:trainings] if (x["schedule"], x["seed"], x["ending"]) == ("wsd", 0, "complete")]
        self.short, self.fractions, self.tokens, self.ends = short, RUNGS, RUNGS, (1.0,)
        self.points = len(kept)
        losses = np.array([x["losses"] for x in kept])[:, [head["shares"].index(share) for share in RUNGS]]
        least = losses.min(0)
        self._floor = least - GAP * (np.median(losses, 0) - least)
        logarithms = np.log(losses - self._floor)
        self._centre = logarithms.mean(0)
        _, sizes, axes = np.linalg.svd(logarithms - self._centre, full_matrices=False)
        count = int(np.searchsorted(np.cumsum(sizes**2) / (sizes**2).sum(), 0.99)) + 1
        self._axes = axes[:count]
        places = np.array([short.seen(x["params"]) for x in kept])
        self._surfaces = [Surface(places, score) for score in ((logarithms - self._centre) @ self._axes.T).T]
        left_out = self._centre + np.array([surface.left_out for surface in self._surfaces]).T @ self._axes
        end = logarithms[:, -1]
        better = np.argsort(end)[: max(5, len(end) // 2)]
        self.explained = float(1 - ((left_out[:, -1] - end) ** 2).mean() / end.var())
        self.error = float(np.abs(np.exp(left_out[:, -1]) - np.exp(end))[better].mean())
        self._sorted = np.sort(end)
        height = float(np.exp(self._sorted[: max(3, len(end) // 5)]).mean())
        self.deviation, self.own = (height * each for each in short.spread())

    def curve(self, params: Mapping[str, Any], seed: int) -> Array:
        """Losses at the fractions."""
        place = self.short.seen(params)
        smooth = self._centre + np.array([surface(place) for surface in self._surfaces]) @ self._axes
        rank = float(np.searchsorted(self._sorted, smooth[-1])) / len(self._sorted)
        noise = self.short.noise(self.short.end(rank), params, seed)
        loss: Array = self._floor + np.exp(smooth + np.interp(RUNGS, self.short.tokens, noise))
        return loss
