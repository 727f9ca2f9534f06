"""How far scores move with the seed of training, from candidates that were trained with several, the same for all.

The model is a two-way one with random effects. The score of candidate i trained with seed s is its mean over seeds,
plus what the seed does to all candidates (the order of rows, say), plus what it does to this one, plus the luck of the
items. The variances are those of the analysis of variance of the scores by candidate and seed, pooled over candidates
for each benchmark; what single answers flip by from seed to seed is taken out of them, since the resamples of the items
hold it already. Each draw of scores on other items then gets draws of both effects, with Student's t for the few
degrees of freedom; a candidate that was trained once has them of its one seed.

What is compared in this way is hyperparameters, trained with any seed. Two seeds or three tell a variance badly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from meshtune.selection.measured import Array, Measured, errors, item_weights, whole_scores


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


def _wider(freedom: int, count: int, chance: np.random.Generator) -> Array:
    """What makes Student's t of a normal: (draws, 1)."""
    return np.asarray(np.sqrt(freedom / chance.chisquare(freedom, (count, 1))))


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
