"""One adapter trained in this process, with a log of it that outlives the process.

The trainer saves itself to a folder, and epochs and seconds so far go to a file beside it: the same training with the
same two goes on from there. Whether they belong to this training is the caller's to know.
Trainers validate after each epoch; where nothing is held out, they are given one row, and its loss is dropped.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from meshtune.config import TrainerConfig
from meshtune.imported import imported
from meshtune.training.loss import Row, RowSet
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Step, Suspended, Trained
from meshtune.training.trainer import train as transformers_trainer

LOG_SECONDS = 10.0  # how much of the time spent a kill may hide


@dataclass(frozen=True)
class Epoch:
    """One epoch's mean training loss, and the validation loss at its end (None: nothing was held out)."""

    epoch: int
    training_loss: float | None
    validation_loss: float | None


@dataclass(frozen=True)
class Retrained:
    """A trained adapter and how it came to be; `seconds` are of training, over all runs that it took."""

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
    trainer: TrainerConfig,
    folder: Path,
    log: Path,
    checkpoint_seconds: float | None,
    asked: Callable[[], bool],
    report: Callable[[Step | Epoch], None],
) -> Retrained:
    """Train an adapter, or go on with it.

    Args:
        validation_rows: None where nothing is held out; then `at` must be `last`.
        folder, log: of the checkpoint, and the file, as the module says. checkpoint_seconds: None: not by time.
        asked: whether to save and end now.
        report: is told each step, and each epoch once at its end.

    Raises:
        Suspended: it was asked to end. With a trainer that saves nothing the next run starts over.
        Diverged: a loss was not finite. InputError: the recipe does not fit the model.
    """
    function = transformers_trainer if trainer.imported is None else imported(trainer.imported, "training.trainer")
    saves = "checkpoint" in inspect.signature(function).parameters
    checkpoint = Checkpoint(folder, checkpoint_seconds, asked)
    held_out = validation_rows if validation_rows is not None else _shortest(train_rows)
    kept = _Log(log, measured=validation_rows is not None)
    steps: Generator[Step | Trained, None, None] = function(
        base, train_rows, held_out, recipe, at=at, **({"checkpoint": checkpoint} if saves else {})
    )
    try:
        with contextlib.closing(steps):
            for step in steps:
                if isinstance(step, Trained):
                    return Retrained(step, tuple(kept.epochs.values()), kept.tokens, kept.seconds)
                for told in kept.take(step):
                    report(told)
                if not saves and asked():
                    raise Suspended
    finally:
        kept.save()
    raise RuntimeError("the trainer ended without a result")


def _shortest(rows: RowSet) -> RowSet:
    index = min(range(len(rows)), key=lambda index: len(rows[index][0]))
    return [rows[index]]


class _Log:
    """What a training has told so far, over all the processes that it took."""

    def __init__(self, path: Path, *, measured: bool):
        self.path, self.measured = path, measured
        self.tokens = 0
        self.epochs: dict[int, Epoch] = {}
        self._before = 0.0
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # a log that is lost is begun anew
            held = json.loads(path.read_text(encoding="utf-8"))
            self._before = float(held["seconds"])
            self.epochs = {epoch["epoch"]: Epoch(**epoch) for epoch in held["epochs"]}
        self._begun = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._before + time.monotonic() - self._begun

    def take(self, step: Step) -> Iterator[Step | Epoch]:
        """Take note of a step; yields what is new: itself, or the epoch that it ends."""
        self.tokens = step.tokens
        if step.validation_loss is None:
            if time.monotonic() - self._saved > LOG_SECONDS:
                self.save()
            yield step
            return
        number = round(step.epoch)
        told = number in self.epochs  # by an earlier run: a checkpoint may lie before the epoch's end
        loss = step.validation_loss if self.measured else None
        self.epochs[number] = Epoch(number, step.training_loss, loss)
        self.save()
        if not told:
            yield self.epochs[number]

    def save(self) -> None:
        """Write it aside, then into its place."""
        values = {"seconds": self.seconds, "epochs": [asdict(epoch) for epoch in self.epochs.values()]}
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(values), encoding="utf-8")
        os.replace(aside, self.path)
        self._saved = time.monotonic()
