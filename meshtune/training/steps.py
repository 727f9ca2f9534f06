"""What a trainer says while it trains: the seam of both trainers.

`train(base, train_rows, validation_rows, recipe, at=..)` is an iterator of `Step`s whose last value is `Trained`.
Closing it ends the training within a step and leaves the base as it was; a loss that is not finite raises `Diverged`.
A trainer that takes a `checkpoint` saves itself there; asked to, it raises `Suspended` once it has.
The `transformers` trainer is in `trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class Diverged(ArithmeticError):
    """A training or validation loss was not finite."""


class Suspended(Exception):
    """The training has saved itself to its checkpoint, as it was asked to, and ended."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a training saves itself, and goes on from where it stood.

    Attributes:
        folder: of the checkpoint. seconds: between saves; None: never by time.
        asked: asked at every step; once true, the training saves itself and raises `Suspended`.
    """

    folder: Path
    seconds: float | None
    asked: Callable[[], bool]


@dataclass(frozen=True)
class Step:
    """Where a training stands.

    Attributes:
        step, steps: optimizer steps done and to be done. epoch: epochs done, a fraction.
        tokens: trained on so far, padding left out.
        training_loss: of the step just done, or at an epoch's end of the epoch: the mean over its label tokens.
        validation_loss: at an epoch's end the loss of the validation rows, else None.
    """

    step: int
    steps: int
    epoch: float
    tokens: int
    training_loss: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class Trained:
    """A trained adapter, of the epoch that was asked for, with that epoch's validation loss.

    `weights` are named as PEFT's files name them, `config` is PEFT's, with the target modules resolved.
    """

    loss: float
    weights: Mapping[str, torch.Tensor]
    config: Any
