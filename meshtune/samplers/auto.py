"""`sampler: auto`: which sampler for which study, and why.

Every choice is a figure of docs/decisions/2026-11-26-mads-fill.md or says that nothing was measured. The choice is made
once, when a study opens, and stands in its record: a later budget does not change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["batch-gp", "mads", "tpe"]

MEASURED_TRIALS = 100
MEASURED_DIMENSION = 4


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
        if study.nomad:
            return Choice("mads", f"{study.objectives} objectives, which batch-gp cannot search; not raced")
        return Choice("tpe", f"{study.objectives} objectives, which batch-gp cannot search, and no PyNomad; not raced")
    return Choice("batch-gp", "")
