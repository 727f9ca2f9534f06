"""Validation: the loss of every row, whatever the batching, and the mean over all label tokens of a set.

It runs in the model's own data type, never under autocast, so that it does not depend on the precision of training;
and it is no mean of batch means, which would change with the batch size (short answers weigh more in small batches).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from meshtune.training.loss import IGNORED, RowSet, collate, label_losses

RowLoss = tuple[float, int]
CPU_TOKENS = 512  # of a batch: more at once is slower, since products are at their peak and caches are small
GPU_TOKENS = 8192


def row_losses(
    model: Any, rows: RowSet, *, batch_tokens: int | None = None, tick: Callable[[], None] | None = None
) -> list[RowLoss]:
    """Per row, in their order: the summed loss and the number of its label tokens.

    Args:
        model: on its device; its mode is put back afterwards.
        rows: of (tokens, trained).
        batch_tokens: tokens of a batch, padding included (one row may have more); the default suits the device.
        tick: called before each batch; what it raises ends the validation.
    """
    losses: list[RowLoss] = [(0.0, 0)] * len(rows)
    lengths = [len(rows[index][0]) for index in range(len(rows))]
    limit = batch_tokens or batch_limit(model.device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches(lengths, limit):
                if tick is not None:
                    tick()
                tensors = {name: x.to(model.device) for name, x in collate([rows[i] for i in batch]).items()}
                sums = label_losses(model, tensors).tolist()
                counts = (tensors["labels"] != IGNORED).sum(1).tolist()
                for index, total, count in zip(batch, sums, counts, strict=True):
                    losses[index] = (total, count)
    finally:
        model.train(training)
    return losses


def batch_limit(device: torch.device) -> int:
    """Tokens of a batch that suit a device."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """The mean over all label tokens of the rows; not a number where there are none."""
    count = sum(count for _, count in losses)
    return math.fsum(total for total, _ in losses) / count if count else math.nan


def rung_rows(rows: int, count: int, seed: int) -> tuple[int, ...]:
    """Numbers of `count` of so many rows, or of all where there are no more, ascending; the seed alone chooses them."""
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    return tuple(sorted(chosen.tolist()))


def batches(lengths: Sequence[int], limit: int, alike: float = math.inf) -> list[list[int]]:
    """Rows of like length together, longest first, so that little is padded and memory peaks at the first batch.

    A row of more than `alike` tokens is alone.
    """
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[found[-1][0]] if found else 0
        if found and longest <= alike and longest * (len(found[-1]) + 1) <= limit:
            found[-1].append(index)
        else:
            found.append([index])
    return found
