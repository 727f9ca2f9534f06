"""What a study is made of, before anything is trained: the one place where the config becomes parts.

`prepare` is shared by `check` and `tune`: both find the same faults, and `tune` goes on with what `check` describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune import space as spaces
from meshtune.commands.locate import Located
from meshtune.config import CommandObjectiveConfig
from meshtune.errors import InputError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.space import Space
from meshtune.workers.local import Place
from meshtune.workers.places import places


@dataclass(frozen=True)
class Prepared:
    """The parts of a study.

    Attributes:
        space: what is searched. baseline: its hyperparameters. start: its point, or None where it lies outside.
        objective: crosses to the worker. places: a process each. fixed: keys that must not change on resume.
        data: summary of the prepared rows, None for a command. test_rows: rows that the search never reads.
    """

    space: Space
    baseline: Mapping[str, Any]
    start: Mapping[str, Any] | None
    objective: ObjectiveSpec
    places: Sequence[Place]
    fixed: Mapping[str, Any]
    data: Any
    test_rows: int


def prepare(study: Located) -> Prepared:
    """Build the parts; loads and tokenizes the data. Raises InputError on whatever is wrong with the input."""
    raise NotImplementedError
