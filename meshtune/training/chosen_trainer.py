"""The trainer that a study names: ours, or a function of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable

from meshtune.config import TrainingConfig
from meshtune.errors import Fault, InputError
from meshtune.imported import imported
from meshtune.training.steps import Step, Train, Trained
from meshtune.training.trainer import train


def trainer_of(training: TrainingConfig) -> tuple[Train, bool]:
    """The function that trains, and whether it takes a checkpoint.

    Raises:
        InputError: what the study imports is not there, or cannot be called.
    """
    name = training.trainer.imported
    if name is None:
        return train, True
    found = imported(name, "training.trainer.import")
    if not callable(found):
        raise InputError(Fault(f"`{name}` is no function, but {found!r}", key="training.trainer.import"))
    return found, takes_checkpoint(found)


def takes_checkpoint(trainer: Train) -> bool:
    """Whether a trainer has an argument of that name, so that it can go on where it was interrupted."""
    arguments = inspect.signature(trainer).parameters.values()
    return any(argument.name == "checkpoint" or argument.kind is argument.VAR_KEYWORD for argument in arguments)


def stepwise(steps: Iterable[Step | Trained]) -> Generator[Step | Trained, None, None]:
    """What a trainer of one's own gives, as a generator: closing it closes that, where it can be closed."""
    yield from steps
