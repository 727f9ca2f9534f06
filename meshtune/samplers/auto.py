"""`sampler: auto`: which sampler for which study, and why.

Every choice is a figure of docs/decisions/2026-11-26-mads-fill.md or says that nothing was measured. The choice is made
once, when a study opens, and stands in its record: a later budget does not change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["batch-gp", "mads", "tpe"]

MEASURED_TRIALS = 100
MEASURED_DIMENSION = 7
MEASURED_BLOCK = 8


@dataclass(frozen=True)
class Situation:
    """What a study is like.

    Attributes:
        trials: of the budget; None where it is another one. dimension: hyperparameters that are searched.
        block_size: trials proposed together. start: whether the baseline lies in the space.
        objectives, constraints: how many; of the constraints those that only a trial can tell.
        nomad: whether PyNomad is installed.
    """

    trials: int | None
    dimension: int
    block_size: int
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
        what = f"{study.objectives} objectives, which batch-gp cannot search"
        if study.nomad:
            return Choice("mads", f"{what}; samplers were not compared on such studies")
        missing = "and mads needs PyNomad, which is not installed"
        return Choice("tpe", f"{what}, {missing}; samplers were not compared on such studies")
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
    beyond = []
    if study.dimension > MEASURED_DIMENSION:
        beyond.append(f"{study.dimension} hyperparameters")
    if study.trials is not None and study.trials > MEASURED_TRIALS:
        beyond.append(f"{study.trials} trials")
    if study.constraints:
        beyond.append("constraints")
    return Choice("batch-gp", found + (f" (not measured: {', '.join(beyond)})" if beyond else ""))
