"""The trainer that a study names, ours or a function of the user's own; and whether its trials can be packed."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from meshtune.config.sections import TrainerConfig, TrainingConfig
from meshtune.errors import Fault, InputError
from meshtune.system.imported import imported
from meshtune.training import trainer
from meshtune.training.loss import RowSet
from meshtune.training.packed import trainer as packed_trainer
from meshtune.training.packed.base import packed
from meshtune.training.packed.unpackable import Unpackable, check_packable
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.saved_state import say
from meshtune.training.steps import Checkpoint, Rungs, Step, Train, Trained

DECIDING = ("target_modules", "use_dora", "init_lora_weights")  # hyperparameters that may keep a trial from a pack
_ANY: Mapping[str, Any] = {"rank": 8, "alpha": 8.0, "dropout": 0.0, "learning_rate": 1e-4}


def trainer_of(training: TrainingConfig) -> Train:
    """The function that trains one adapter; `takes` says what it can.

    Raises:
        InputError: what the study imports is not there, or cannot be called.
    """
    name = training.trainer.imported
    if name is None:
        return trainer.train if training.trainer.name == "transformers" else packed_if_possible
    found: Train = imported(name, "training.trainer.import")
    if not callable(found):
        raise InputError(Fault(f"`{name}` is no function, but {found!r}", key="training.trainer.import"))
    return found


def reference(training: TrainingConfig) -> TrainingConfig:
    """The same training by the trainer `transformers`, which trains what cannot be packed."""
    return training.model_copy(update={"trainer": TrainerConfig(name="transformers")})


def why_not_packed(base: Any, training: TrainingConfig, variants: Sequence[Mapping[str, Any]]) -> str | None:
    """What keeps the trials of a study from packs, as the rest of a sentence; None: nothing does.

    One that cannot be packed keeps all of them, so that all are trained alike.

    Args:
        training: with a resolved precision. variants: of the `DECIDING` hyperparameters, all that the study may hold.
    """
    try:
        for variant in variants:
            try:
                check_packable(base, [recipe(training, {**_ANY, **variant}, 0)])
            except InputError:  # such a trial says it itself
                continue
        kind = torch.bfloat16 if training.precision == "bfloat16" else base.dtype
        with packed(base, kind, checkpointing=training.gradient_checkpointing):
            return None
    except Unpackable as error:
        return error.reason


def packed_if_possible(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
) -> Generator[Step | Trained, None, None]:
    """Train with `packed`; what it cannot train with `transformers`, which is said in the log."""
    rows = train_rows, validation_rows
    try:
        yield from packed_trainer.train(base, *rows, recipe, at=at, checkpoint=checkpoint, rungs=rungs)
    except Unpackable as error:  # which comes before the first step
        say(f"trained by the trainer `transformers`: it cannot be packed, since {error.reason}")
        yield from trainer.train(base, *rows, recipe, at=at, checkpoint=checkpoint, rungs=rungs)


def takes(trainer: Train, argument: Literal["checkpoint", "rungs"]) -> bool:
    """Whether a trainer has that argument: can go on where it was interrupted; can be measured at rungs."""
    found = inspect.signature(trainer).parameters.values()
    return any(parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD for parameter in found)


def stepwise(steps: Iterable[Step | Trained]) -> Generator[Step | Trained, None, None]:
    """What a trainer of one's own gives, as a generator: closing it closes that, where it can be closed."""
    yield from steps
