"""One pass of a pack, as every process of a trial computes it: losses and gradients, or that it has no room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from meshtune.training import machine
from meshtune.training.loss import RowLoss
from meshtune.training.packed.base import PackedBase
from meshtune.training.packed.limits import LOW_MULTIPLE
from meshtune.training.packed.rows import Portion, lay_out

T = TypeVar("T")


def backward(pack: PackedBase, together: Sequence[Portion]) -> Sequence[torch.Tensor]:
    """The losses of each portion's labels; their gradients are added to those of the adapters."""
    exact = pack.low == pack.base.dtype == torch.float32
    batch = lay_out(together, pack.base.device, 1 if exact else LOW_MULTIPLE)
    losses, total = pack.losses(batch, train=True)
    total.backward()  # type: ignore[no-untyped-call]
    return torch.split(losses, list(batch.shared))


def measured(pack: PackedBase, together: Sequence[Portion]) -> list[RowLoss]:
    """The loss of each row."""
    return pack.row_losses(lay_out(together, pack.base.device))


def roomy(work: Callable[[], T], device: torch.device, pack: PackedBase | None = None) -> T | None:
    """What it gives; None where memory ran out, when all that it had is free again."""
    try:
        return work()
    except Exception as error:
        if not machine.is_out_of_memory(error):
            raise
    if pack is not None:
        pack.forget()
    machine.free(str(device))  # here, where the error's frames hold no tensors any more
    return None
