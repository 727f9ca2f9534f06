"""The loss that everything here means: the mean over label tokens, computed in float32 from a batch of padded rows.

A label is a trained token that has a token before it. Padding is told by the attention mask alone: models exist whose
padding token is also the end of every answer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from meshtune.training.positions import alike, forget_lengths

IGNORED = -100

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


class RowSet(Protocol):
    """Rows by number, as `meshtune.data.store.Rows` has them."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int, /) -> Row:
        """Tokens of a row, and which of them are trained."""


@dataclass(frozen=True)
class Selected:
    """Some rows of a set, by their numbers in it."""

    rows: RowSet
    indices: Sequence[int]

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Row:
        """Tokens of a row, and which of them are trained; IndexError beyond the last."""
        return self.rows[self.indices[index]]


def collate(rows: Sequence[Row], pad: int = 0) -> dict[str, torch.Tensor]:
    """Rows of (tokens, trained) as `input_ids`, `attention_mask` and `labels`, each (rows, longest), padded right."""
    shape = len(rows), max(len(tokens) for tokens, _ in rows)
    ids = np.full(shape, pad, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for index, (tokens, trained) in enumerate(rows):
        ids[index, : len(tokens)] = tokens
        mask[index, : len(tokens)] = 1
        labels[index, 1 : len(tokens)] = np.where(trained[1:], tokens[1:], IGNORED)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
    }


def label_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Per row the summed loss of its labels, float32, differentiable, and the same whatever it is batched with.

    The head, the largest layer of a small model, is computed only where a label comes next: at a fifth of the
    positions where answers are short. Where a model does not call its head as a module, all positions are computed.
    """
    limit = alike(model.config)
    if math.isinf(limit):
        return _label_losses(model, batch)
    lengths = batch["attention_mask"].sum(1).tolist()
    short = [row for row, length in enumerate(lengths) if length <= limit]
    passes = [short] * bool(short) + [[row] for row, length in enumerate(lengths) if length > limit]
    parts = []
    for rows in passes:
        forget_lengths(model)
        longest = max(lengths[row] for row in rows)
        parts.append(_label_losses(model, {name: x[rows, :longest] for name, x in batch.items()}))
    order = [row for rows in passes for row in rows]
    return torch.cat(parts)[[order.index(row) for row in range(len(order))]]


def _label_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["labels"]
    before = (labels != IGNORED).roll(-1, 1)  # position i predicts token i + 1; the first token is no label
    head = model.get_output_embeddings()
    kept = False

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal kept
        kept = True
        return (inputs[0][before][None], *inputs[1:])

    with head.register_forward_pre_hook(keep) if head is not None else contextlib.nullcontext():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits = output.logits[0] if kept else output.logits[before]
    losses = functional.cross_entropy(logits.float(), labels[labels != IGNORED], reduction="none")
    return losses.new_zeros(labels.shape).masked_scatter(before, losses).sum(1)
