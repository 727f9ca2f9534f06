"""A micro-batch of the trainer `transformers`, shared by the processes of a trial: some of its rows each.

A process computes what one alone would compute of these rows: padded as the whole micro-batch is, and with its masks of
dropout, each process drawing those of all rows from the random state of rank 0 and taking its own. Rank 0 has the first
rows, so that it draws as often as it would alone, and a checkpoint knows nothing of the number of processes. Masks are
others, as with another seed, where values are dropped outside of `nn.Dropout` (in the attention of some models), and
for rows beyond the length up to which a model's positions do not depend on the longest row (`loss.alike`).

`packed/ranks.py` carries it between the processes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import TrainingArguments

from meshtune.training.loss import IGNORED, label_losses

# Transformers has renamed it; the old name is deprecated where the new one is known.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


class SharedAdapter:
    """PEFT's adapter on a base: its weights become parts of one flat tensor, and their gradients of another.

    Attributes:
        weights, gradient: float32. changes: how often the weights were changed.
    """

    def __init__(self, model: Any):
        self.model = model
        self._own = [weight for weight in model.parameters() if weight.requires_grad]
        self._sizes = [weight.numel() for weight in self._own]
        self.weights = torch.cat([weight.detach().reshape(-1) for weight in self._own])
        self.gradient = torch.zeros_like(self.weights)
        self.changes = 0
        for weight, part in zip(self._own, torch.split(self.weights, self._sizes), strict=True):
            weight.data = part.view(weight.shape)

    def refresh(self) -> None:
        """Count the weights as changed."""
        self.changes += 1

    def begin(self) -> None:
        """Begin to sum gradients, which an optimizer may have taken away."""
        self.gradient.zero_()
        for weight, part in zip(self._own, torch.split(self.gradient, self._sizes), strict=True):
            weight.grad = part.view(weight.shape)


@dataclass(frozen=True)
class Part:
    """Some rows of a micro-batch of `rows` rows, from the one numbered `first` on, as the trainer collates them."""

    inputs: Mapping[str, torch.Tensor]
    first: int
    rows: int

    def __len__(self) -> int:
        """How many."""
        return len(self.inputs["input_ids"])


def parts(inputs: Mapping[str, torch.Tensor], count: int) -> list[Part]:
    """A micro-batch in so many parts, as many rows each but for one; the last may have none."""
    rows = len(inputs["input_ids"])
    ends = [(rows * rank + count - 1) // count for rank in range(count + 1)]  # rounded up: rank 0 has some
    return [
        Part({name: x[first:end] for name, x in inputs.items()}, first, rows) for first, end in itertools.pairwise(ends)
    ]


@contextlib.contextmanager
def masked_as(model: Any, part: Part) -> Iterator[None]:
    """Let `nn.Dropout` drop of these rows what it would drop of them in the whole micro-batch. Forward and backward."""
    dropouts = [module for module in model.modules() if type(module) is nn.Dropout]
    for module in dropouts:
        module.forward = partial(_dropped, module, part)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in dropouts:
            del module.forward


def _dropped(module: nn.Dropout, part: Part, values: torch.Tensor) -> torch.Tensor:
    own, each = len(part), len(values) // max(1, len(part))  # more than 1, where a layer has rows end to end
    if not (module.training and module.p) or own == part.rows or own * each != len(values):
        return functional.dropout(values, module.p, module.training)
    whole = torch.ones(part.rows * each, *values.shape[1:], dtype=values.dtype, device=values.device)
    kept = functional.dropout(whole, module.p)
    return values * kept[part.first * each : (part.first + own) * each]


# What a process without rows computes where it must compute something: one label, which counts nothing.
_NOTHING = {
    "input_ids": torch.zeros(1, 2, dtype=torch.int64),
    "attention_mask": torch.ones(1, 2, dtype=torch.int64),
    "labels": torch.tensor([[IGNORED, 0]]),
}


def backward(model: Any, part: Part, labels: int, scale: float, precision: str, lockstep: bool) -> float:
    """The part's share of the mean loss of a step; its gradient, times `scale`, is added to the weights'.

    Args:
        labels: of the step. precision: of products. lockstep: whether it computes without rows too.
    """
    if not len(part) and not lockstep:
        return 0.0
    device = model.device
    inputs = {name: x.to(device) for name, x in (part.inputs if len(part) else _NOTHING).items()}
    low = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    with masked_as(model, part):
        with low:
            losses = label_losses(model, inputs)
        loss: torch.Tensor = losses.sum() / labels if len(part) else losses.sum() * 0
        (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.item()


def random_state(device: torch.device) -> torch.Tensor:
    """Of the generator that draws a model's masks there."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """As another process had it."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
