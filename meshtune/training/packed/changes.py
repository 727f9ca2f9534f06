"""What a caller changes in a pack that trains, and what it hears beside the words of a training (`steps.py`)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshtune.training.recipe import Recipe

ALL = -1  # the number that `Measured` comes with


@dataclass(frozen=True)
class Kept:
    """The end of an adapter that left with its state, and that state as one of a pack of this adapter alone.

    Attributes:
        made_by, state: for `saved_state.write`; the tensors are the training's own. A pack that had gone on from a
            checkpoint in which the adapter had left tells it again without a state: None.
    """

    made_by: str
    state: dict[str, Any] | None


@dataclass(frozen=True)
class Measured:
    """All that stand at a rung have said so; nothing else is computed before the next event is asked for."""


@dataclass
class PassLimit:
    """Tokens of a pass at most, which only a single row exceeds; None: what suits the device.

    A pack lowers it where memory runs out.
    """

    tokens: int | None = None


@dataclass
class Changes:
    """What a caller wants changed in a pack that runs; looked at before each pass, and before an epoch is validated.

    Attributes:
        leaving: numbers of adapters that end without a result, and without another word.
        keeping: numbers of adapters that end with `Kept`.
        joining: recipes of further adapters, with the tokens of their rungs; their numbers follow on the others'.
        held: numbers of adapters that do not begin yet, while others train.
        frozen: by number, folders with the states that adapters go on from, each as it left a pack with `Kept`.
    """

    leaving: set[int] = field(default_factory=set)
    keeping: set[int] = field(default_factory=set)
    joining: deque[tuple[Recipe, tuple[int, ...]]] = field(default_factory=deque)
    held: set[int] = field(default_factory=set)
    frozen: dict[int, Path] = field(default_factory=dict)
