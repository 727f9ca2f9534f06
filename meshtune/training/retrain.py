"""One adapter trained in this process, told step by step, saved on the way where the trainer can.

Trainers validate after each epoch; where nothing is held out, they are given one row, and its loss is dropped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from meshtune.training.chosen_trainer import stepwise
from meshtune.training.loss import Row, RowSet
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Step, Suspended, Train, Trained


@dataclass(frozen=True)
class Epoch:
    """One epoch's mean training loss, and the validation loss at its end (None: nothing was held out)."""

    epoch: int
    training_loss: float | None
    validation_loss: float | None


@dataclass(frozen=True)
class Retrained:
    """A trained adapter and how it came to be; `seconds` include those before the checkpoint that it went on from."""

    trained: Trained
    epochs: tuple[Epoch, ...]
    tokens: int
    seconds: float


class Joined:
    """Rows of several sets, one after the other."""

    def __init__(self, parts: Sequence[RowSet]):
        self._places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        """How many."""
        return len(self._places)

    def __getitem__(self, index: int, /) -> Row:
        """Tokens of a row, and which of them are trained."""
        part, inside = self._places[index]
        return part[inside]


def retrain(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet | None,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    trainer: Train,
    saves: bool,
    checkpoint: Checkpoint,
    report: Callable[[Step | Epoch], None],
) -> Retrained:
    """Train an adapter, or go on with it from the checkpoint.

    Args:
        validation_rows: None where nothing is held out; then `at` must be `last`.
        trainer, saves: and whether it takes the checkpoint; one that does not starts over each time.
        report: is told each step, and each epoch at its end (those before the checkpoint are told again).

    Raises:
        Suspended: `checkpoint.asked` said so.
        Diverged: a loss was not finite. InputError: the recipe does not fit the model.
    """
    held_out = validation_rows if validation_rows is not None else _shortest(train_rows)
    epochs: dict[int, Epoch] = {}
    begun, earlier, tokens = time.monotonic(), 0.0, 0
    given: dict[str, Any] = {"checkpoint": checkpoint} if saves else {}
    steps = trainer(base, train_rows, held_out, recipe, at=at, **given)
    with contextlib.closing(stepwise(steps)) as steps:
        for step in steps:
            if isinstance(step, Trained):
                return Retrained(step, tuple(epochs.values()), tokens, earlier + time.monotonic() - begun)
            earlier, tokens = max(earlier, step.earlier), step.tokens
            if step.validation_loss is None:
                report(step)
            else:
                number = round(step.epoch)
                loss = None if validation_rows is None else step.validation_loss
                epochs[number] = Epoch(number, step.training_loss, loss)
                report(epochs[number])
            if not saves and checkpoint.asked():
                raise Suspended
    raise RuntimeError("the trainer ended without a result")


def _shortest(rows: RowSet) -> RowSet:
    index = min(range(len(rows)), key=lambda index: len(rows[index][0]))
    return [rows[index]]
