"""`sampler: auto`: which sampler for which study, and why.

Every choice is a figure of docs/decisions/2026-11-26-mads-fill.md, or for several objectives of
2026-12-01-multi-objective.md, and says what was not measured. It is made once, when a study opens, and stands in its
record: a later budget does not change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["batch-gp", "mads", "tpe"]

MEASURED_TRIALS = 100
MEASURED_DIMENSION = 7
MEASURED_BLOCK = 8
MEASURED_OBJECTIVES = 2


@dataclass(frozen=True)
class Situation:
    """What a study is like.

    Attributes:
        trials: of the budget; None where it is another one. dimension: hyperparameters that are searched.
        block_size: trials proposed together. asynchronous: whether none of them waits for the others.
        start: whether the baseline lies in the space.
        objectives, constraints: how many; of the constraints those that only a trial can tell.
        nomad: whether PyNomad is installed.
    """

    trials: int | None
    dimension: int
    block_size: int
    asynchronous: bool = False
    start: bool = True
    objectives: int = 1
    constraints: int = 0
    nomad: bool = True


@dataclass(frozen=True)
class Choice:
    """A sampler's name, and the reason in a sentence."""

    name: Name
    reason: str


def choose(study: Situation) -> Choice:
    """The sampler that the measurements speak for."""
    if study.objectives > 1:
        return _several(study)
    at_once = "one trial at a time" if study.block_size == 1 else f"{study.block_size} trials at once"
    closest = "on test problems it came closest to the best possible point"
    if study.block_size >= MEASURED_BLOCK:
        found = f"{closest} ({MEASURED_BLOCK} trials at once)"
    elif study.start:
        found = (
            f"on test problems it came about as close to the best possible point as mads ({at_once}, from a baseline)"
        )
    else:
        found = f"{closest} ({at_once}, without a baseline in the space)"
    return Choice("batch-gp", found + _beyond(study))


def _several(study: Situation) -> Choice:
    """Of two objectives mads and tpe were compared, one trial at a time and in blocks of eight."""
    what = f"{study.objectives} objectives, which batch-gp cannot search; on test problems"
    if study.block_size >= MEASURED_BLOCK:
        found = f"{what} tpe came closer to the best trade-offs than mads ({MEASURED_BLOCK} trials at once)"
        return Choice("tpe", found + _beyond(study))
    found = f"{what} mads and tpe came about as close to the best trade-offs, one trial at a time"
    if study.asynchronous and study.block_size > 1:
        return Choice("tpe", f"{found}, and mads waits for the last trial of a block" + _beyond(study))
    if study.nomad:
        return Choice("mads", found + _beyond(study))
    return Choice("tpe", f"{found}, and mads needs PyNomad, which is not installed" + _beyond(study))


def _beyond(study: Situation) -> str:
    """What of this study lies outside of what was measured."""
    beyond = []
    if study.objectives > MEASURED_OBJECTIVES:
        beyond.append(f"{study.objectives} objectives")
    if 1 < study.block_size < MEASURED_BLOCK and study.objectives > 1:
        beyond.append(f"{study.block_size} trials at once")
    if study.dimension > MEASURED_DIMENSION:
        beyond.append(f"{study.dimension} hyperparameters")
    if study.trials is not None and study.trials > MEASURED_TRIALS:
        beyond.append(f"{study.trials} trials")
    if study.constraints:
        beyond.append("constraints")
    return f" (not measured: {', '.join(beyond)})" if beyond else ""
