"""Which trials train on, by the model of points and curves: the chance of each, and places of a pack's next segment.

A decision follows from the model alone, so from the curves that it was fitted to. Frozen is not stopped: a trial stays
among those that may get a place, at every later decision. Nothing freezes before three trials have ended: until then
those that are ahead go on as they are, and a point that learns slowly and ends low would never be seen to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshtune.config.budget import FEWEST_FINISHED
from meshtune.samplers.gp.space import Array
from meshtune.stopping.freeze_thaw import Finals, Model

LEAST = 0.02  # chance below which a trial freezes
DRAWS = 512  # joint ones of a decision


def chances(finals: Finals, finished: NDArray[np.bool_], limit: float, draws: int = DRAWS) -> Array:
    """Of each trial (n,) the chance to be the one that ends lowest of all, and below `limit`, by joint draws; 0 for
    those that have finished. So two that can only win where the other one does too share their chance.
    """
    drawn = np.where(finished, math.inf, finals.draws(draws))
    lowest = drawn.argmin(1)[drawn.min(1) < limit]
    return np.bincount(lowest, minlength=len(finished)) / draws


@dataclass(frozen=True)
class Decision:
    """Who trains through the next segment. Positions are those of the model's trials, then of the new points.

    Attributes:
        places: who gets them, the first first; fewer where nothing else is worth one.
        freezes: unfinished trials that are not likely enough to end below the best.
        chances: (n + m,) to end below the best by more than the noise; 1 while fewer than three have finished.
    """

    places: tuple[int, ...]
    freezes: tuple[int, ...]
    chances: Array


def decide(
    model: Model, places: int, noise: float = 0.0, points: Array | None = None, least: float = LEAST, draws: int = DRAWS
) -> Decision:
    """Places of the next segment, for trials that run, frozen ones and new points.

    A trial freezes while its chance to end below the best by more than `noise` is under `least`; it may be thawed by
    any later decision. The places go one after the other to who adds most to the chance that one of them ends so low,
    by joint draws, for each token that is left to train: a trial that can only win where another one wins too waits for
    that one, and what is nearly done is finished first. Among equals to the likelier, then to the one that is expected
    to end lower. New points stand in line with the rest, and are never frozen.

    Args:
        points: (m, columns) features of new points, in the order of their worth.
    """
    finals = model.final(points)
    n = len(model.curves.features)
    limit = model.best - noise if model.finished.sum() >= FEWEST_FINISHED else math.inf
    chances = finals.below(limit)
    chances[:n][model.finished] = 0.0
    open_ = np.flatnonzero(~model.finished)
    freezes = open_[chances[open_] < least]
    waiting = [*np.setdiff1d(open_, freezes).tolist(), *range(n, len(chances))]
    left = np.concatenate([1.0 - model.stands, np.ones(len(chances) - n)])
    wins = finals.draws(draws) < limit
    chosen: list[int] = []
    while waiting and len(chosen) < places:
        gains = wins[~wins[:, chosen].any(1)][:, waiting].sum(0) / left[waiting]
        order = np.lexsort((finals.mean[waiting], -chances[waiting] / left[waiting], -gains))
        chosen.append(waiting.pop(int(order[0])))
    return Decision(tuple(chosen), tuple(freezes.tolist()), chances)
