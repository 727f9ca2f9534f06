"""The trainer that a study names, ours or a function of the user's own; and whether its trials can be packed.

`retrain` trains one adapter with it in this process, saved on the way where the trainer can. Trainers validate after
each epoch; where nothing is held out, they are given one row, and its loss is dropped.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch

from meshtune.config.sections import TrainerConfig, TrainingConfig
from meshtune.errors import Fault, InputError
from meshtune.system.imported import imported
from meshtune.training.loss import Row, RowSet
from meshtune.training.packed import trainer as packed_trainer
from meshtune.training.packed.base import packed
from meshtune.training.packed.ranks import Ranks
from meshtune.training.packed.unpackable import Unpackable, check_packable
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.saved_state import say
from meshtune.training.steps import Checkpoint, Given, Step, Suspended, Train, Trained

_ANY: Mapping[str, Any] = {"rank": 8, "alpha": 8.0, "dropout": 0.0, "learning_rate": 1e-4}


def trainer_of(training: TrainingConfig) -> Train:
    """The function that trains one adapter; `takes` says what it can.

    Raises:
        InputError: what the study imports is not there, or cannot be called.
    """
    name = training.trainer.imported
    if name is None:
        return by_transformers if training.trainer.name == "transformers" else packed_if_possible
    found: Train = imported(name, "training.trainer.import")
    if not callable(found):
        raise InputError(Fault(f"`{name}` is no function, but {found!r}", key="training.trainer.import"))
    return found


def reference(training: TrainingConfig) -> TrainingConfig:
    """The same training by the trainer `transformers`, which trains what cannot be packed."""
    return training.model_copy(update={"trainer": TrainerConfig(name="transformers")})


def why_not_packed(
    base: Any, training: TrainingConfig, variants: Sequence[Mapping[str, Any]], ranks: Ranks | None = None
) -> str | None:
    """What keeps the trials of a study from packs, as the rest of a sentence; None: nothing does.

    One that cannot be packed keeps all of them, so that all are trained alike.

    Args:
        training: with a resolved precision. variants: of the `DECIDING` hyperparameters, all that the study may hold.
        ranks: processes over which its layers are cut, which must try it too.
    """
    try:
        for variant in variants:
            try:
                check_packable(base, [recipe(training, {**_ANY, **variant}, 0)])
            except InputError:  # such a trial says it itself
                continue
        kind = torch.bfloat16 if training.precision == "bfloat16" else torch.float32
        again = training.gradient_checkpointing is True
        others = contextlib.nullcontext() if ranks is None else ranks.packing(kind, again)
        with others, packed(base, kind, checkpointing=again, lockstep=ranks is not None):
            return None
    except Unpackable as error:
        return error.reason


def packed_if_possible(
    base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, **given: Unpack[Given]
) -> Generator[Step | Trained, None, None]:
    """Train with `packed`; what it cannot train with `transformers`, which is said in the log."""
    try:
        yield from packed_trainer.train(base, train_rows, validation_rows, recipe, **given)
    except Unpackable as error:  # which comes before the first step
        say(f"trained by the trainer `transformers`: it cannot be packed, since {error.reason}")
        yield from by_transformers(base, train_rows, validation_rows, recipe, **given)


def by_transformers(
    base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, **given: Unpack[Given]
) -> Generator[Step | Trained, None, None]:
    """Train with `transformers`, whose Trainer loads datasets and pandas: packs do not wait for them."""
    from meshtune.training import trainer

    yield from trainer.train(base, train_rows, validation_rows, recipe, **given)


def takes(trainer: Train, argument: Literal["checkpoint", "rungs"]) -> bool:
    """Whether a trainer has that argument: can go on where it was interrupted; can be measured at rungs."""
    found = inspect.signature(trainer).parameters.values()
    return any(parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD for parameter in found)


def check_own(training: TrainingConfig, *, rungs: bool) -> None:
    """Refuse a trainer of one's own that is not there, or takes no `rungs` where they are needed. Raises InputError."""
    train = trainer_of(training)
    if rungs and not takes(train, "rungs"):
        what = 'the trainer has no argument `rungs`, so it cannot be stopped early (page "Train"); write none'
        raise InputError(Fault(what, key="early_stopping"))


def stepwise(steps: Iterable[Step | Trained]) -> Generator[Step | Trained, None, None]:
    """What a trainer of one's own gives, as a generator: closing it closes that, where it can be closed."""
    yield from steps


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
