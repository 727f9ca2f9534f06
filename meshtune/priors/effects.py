"""How the loss of a LoRA training depends on the point: one shape, whose five numbers differ between tasks.

With x = log10(learning rate x alpha) and q = log2(rank), the log of the loss over the least one of rank 64 is

    exp(steep) * (sqrt(v^2 + 0.09) - 0.3) * exp(min(exp(right) * max(v, 0)^2, 4)) - rank * (q - 6)
    with v = x - peak - tilt * (q - 6)

so the best product lies at `peak` for rank 64 and moves by `tilt` for each doubling; to the left the loss rises about
linearly, to the right faster and faster, and a doubling of the rank gains `rank`.

What these five numbers are for a new task is predicted from known tasks by Gaussian processes over tasks: two tasks are
alike by a common mean, by their family and its generation, and linearly by the logs of hidden size, steps and rows a
step; the rest is the task's own. `scales` are the standard deviations of these parts. No library: advice loads none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshtune.priors.runs import Facts

EFFECTS = ("peak", "steep", "right", "tilt", "rank")
Effects = tuple[float, float, float, float, float]
CORNER = 0.3
MOST = 4.0  # of the exponent to the right, so that far points stay finite
WORST = 2.0
PARTS = ("mean", "family", "generation", "hidden_size", "steps", "batch_size", "task")
Scales = Mapping[str, float]
CENTRE = Facts("other", 4096, None, 780, 128)  # where the linear parts are nothing


def relative_loss(effects: Effects, product: float, rank: float) -> float:
    """Log of the loss over the task's least at rank 64. `product`: learning rate x alpha."""
    peak, steep, right, tilt, gain = effects
    away = math.log2(rank) - 6.0
    v = math.log10(product) - peak - tilt * away
    fall = math.exp(steep) * (math.sqrt(v * v + CORNER * CORNER) - CORNER)
    rise = math.exp(min(math.exp(right) * v * v, MOST)) if v > 0 else 1.0
    return min(fall * rise, WORST) - gain * away


def least(effects: Effects, ranks: Sequence[int]) -> float:
    """The lowest that any product reaches with these ranks."""
    return min(-effects[4] * (math.log2(rank) - 6.0) for rank in ranks)


@dataclass(frozen=True)
class Known:
    """A task whose effects were estimated, and the variances of the estimates (of the data alone)."""

    facts: Facts
    effects: Effects
    variances: Effects


@dataclass(frozen=True)
class Predicted:
    """What the effects of a new task are expected to be, and their standard deviations."""

    means: Effects
    deviations: Effects

    def draws(self, count: int, *, wider: float = 1.0) -> list[Effects]:
        """Random effects: always the same ones. `wider`: a factor of the deviations."""
        rng = random.Random(0)
        drawn = []
        for _ in range(count // 2):
            normal = [rng.gauss(0.0, wider) for _ in EFFECTS]
            for sign in (1.0, -1.0):
                both = zip(self.means, self.deviations, normal, strict=True)
                drawn.append(_five([mean + sign * deviation * z for mean, deviation, z in both]))
        return drawn


def likeness(one: Facts, other: Facts, scales: Scales) -> float:
    """Covariance of an effect between two tasks."""
    same = scales["mean"] ** 2
    if one.root == other.root != "other":
        same += scales["family"] ** 2 + (scales["generation"] ** 2 if one.family == other.family else 0.0)
    for name in ("hidden_size", "steps", "batch_size"):
        centre = getattr(CENTRE, name)
        logs = [math.log10(getattr(facts, name) / centre) for facts in (one, other)]
        same += scales[name] ** 2 * logs[0] * logs[1]
    return same


def predict(known: Sequence[Known], facts: Facts, centres: Effects, scales: Sequence[Scales]) -> Predicted:
    """The effects of a task with these facts. `centres`, `scales`: of each effect, before any task is known."""
    means, deviations = list[float](), list[float]()
    for index, (centre, parts) in enumerate(zip(centres, scales, strict=True)):
        matrix = [[likeness(a.facts, b.facts, parts) for b in known] for a in known]
        for place, task in enumerate(known):
            matrix[place][place] += parts["task"] ** 2 + task.variances[index]
        across = [likeness(task.facts, facts, parts) for task in known]
        lower = _cholesky(matrix)
        solved = _forward(lower, across)
        values = _forward(lower, [task.effects[index] - centre for task in known])
        means.append(centre + sum(a * b for a, b in zip(solved, values, strict=True)))
        variance = likeness(facts, facts, parts) + parts["task"] ** 2 - sum(a * a for a in solved)
        deviations.append(math.sqrt(max(variance, 1e-12)))
    return Predicted(_five(means), _five(deviations))


def _five(values: Sequence[float]) -> Effects:
    one, two, three, four, five = values
    return one, two, three, four, five


def _cholesky(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    lower = list[list[float]]()
    for i, row in enumerate(matrix):
        new = list[float]()
        for j in range(i + 1):
            other = new if i == j else lower[j]
            rest = row[j] - sum(a * b for a, b in zip(new[:j], other[:j], strict=True))
            new.append(math.sqrt(max(rest, 1e-12)) if i == j else rest / other[j])
        lower.append(new)
    return lower


def _forward(lower: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    solved = list[float]()
    for row, value in zip(lower, values, strict=True):
        solved.append((value - sum(a * b for a, b in zip(row, solved, strict=False))) / row[len(solved)])
    return solved
