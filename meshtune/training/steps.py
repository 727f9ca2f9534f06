"""What a trainer says while it trains: the seam of both trainers.

`train(base, train_rows, validation_rows, recipe, at=..)` is an iterator of `Step`s whose last value is `Trained`.
Closing it ends the training within a step and leaves the base as it was; a loss that is not finite raises `Diverged`.
The `transformers` trainer is in `trainer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


class Diverged(ArithmeticError):
    """A training or validation loss was not finite."""


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
