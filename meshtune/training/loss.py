"""The loss that everything here means: the mean over label tokens, computed in float32 from a batch of padded rows.

A label is a trained token that has a token before it. Padding is told by the attention mask alone: models exist whose
padding token is also the end of every answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

IGNORED = -100

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]


class RowSet(Protocol):
    """Rows by number, as `meshtune.data.batches.Rows` has them."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int, /) -> Row:
        """Tokens of a row, and which of them are trained."""


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
    """Per row the summed loss of its labels, float32, differentiable.

    The head is computed from the first label of the batch on only, where the model offers that.
    """
    labels = batch["labels"]
    columns = (labels != IGNORED).any(0).nonzero()
    first = int(columns[0]) if len(columns) else labels.shape[1] - 1
    kept = labels.shape[1] - first + 1  # position first - 1 predicts the first label; the last one predicts nothing
    keep = {"logits_to_keep": kept} if _can_keep(model) else {}
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **keep)
    logits = output.logits[:, -kept:-1]
    targets = labels[:, first:]
    losses = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape).sum(1)


def _can_keep(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
