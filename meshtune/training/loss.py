"""The loss that everything here means: the mean over label tokens, computed in float32 from a batch of padded rows.

A label is a trained token that has a token before it. Padding is known by the attention mask alone: models exist whose
padding token is also the end of every answer.

Validation measures it for every row, whatever the batching. It runs in the model's own data type, never under autocast,
so that it does not depend on the precision of training; and it is no mean of batch means, which would change with the
batch size (short answers weigh more in small batches).

The rotary positions of some models, LongRoPE and dynamic NTK, depend on the longest row of a pass. Up to the length
that they were first trained for, no row feels another. Beyond it a row is computed in a pass of its own, so that its
loss is the one that it has alone, whatever it is batched or packed with.

The logits of a base in bfloat16 are not rounded to it on a GPU: the product of the head is given in float32, in which
it is summed anyway. On a CPU, where no such product is to be had, they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from meshtune.training import machine

IGNORED = -100
# Devices whose products can be given in another type; torch knows them since 2.8.
_EXACT = ("cuda", "meta") if hasattr(torch.ops.aten.mm, "dtype") else ()

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

    with head.register_forward_pre_hook(keep) if head is not None else contextlib.nullcontext(), exact_head(head):
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits = output.logits[0] if kept else output.logits[before]
    losses = functional.cross_entropy(logits.float(), labels[labels != IGNORED], reduction="none")
    return losses.new_zeros(labels.shape).masked_scatter(before, losses).sum(1)


def exact_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(rows, width) times the transpose of (words, width): in float32 where a GPU gives it so, else in their type."""
    if weight.dtype in (torch.bfloat16, torch.float16) and weight.device.type in _EXACT:
        return torch.mm(rows.to(weight.dtype), weight.t(), out_dtype=torch.float32)
    return rows.to(weight.dtype) @ weight.t()


@contextlib.contextmanager
def exact_head(head: Any) -> Iterator[None]:
    """Let a frozen head of a low type make float32 of it, where `exact_product` does; afterwards it is as it was."""
    low = type(head) is nn.Linear and head.weight.dtype != torch.float32 and head.weight.device.type in _EXACT
    if not low or "forward" in vars(head):
        yield
        return
    head.forward = lambda hidden: _ExactHead.apply(hidden, head.weight, head.bias)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del head.forward


class _ExactHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        logits = exact_product(hidden.reshape(-1, hidden.shape[-1]), weight)
        if bias is not None:
            logits += bias
        return logits.view(*hidden.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grads[0].to(weight.dtype) @ weight, None, None


def alike(config: Any) -> float:
    """Tokens up to which no row's positions depend on the others'; infinite for all other models."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    return min(
        (
            rope.get("original_max_position_embeddings") or text.max_position_embeddings
            for rope in (given, *given.values())  # one, or one a kind of layer
            if isinstance(rope, Mapping) and rope.get("rope_type") in ("dynamic", "longrope")
        ),
        default=math.inf,
    )


def forget_lengths(model: Any) -> None:
    """Let the next pass know nothing of those before it: dynamic NTK keeps what the longest of them needed."""
    for part in model.modules():
        for name in vars(part):
            if name.endswith("max_seq_len_cached"):
                setattr(part, name, 0)


RowLoss = tuple[float, int]
CPU_TOKENS = 512  # of a batch: more at once is slower, since products are at their peak and caches are small
GPU_TOKENS = 8192


def row_losses(
    model: Any, rows: RowSet, *, batch_tokens: int | None = None, tick: Callable[[], None] | None = None
) -> list[RowLoss]:
    """Per row, in their order: the summed loss and the number of its label tokens.

    Where memory runs out, it goes on with batches of half the size, which change no loss.

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
            waiting = batches(lengths, limit)
            while waiting:
                if tick is not None:
                    tick()
                batch = waiting[0]
                found = _of_batch(model, [rows[index] for index in batch])
                if found is None:
                    machine.free(str(model.device))
                    limit = len(batch) * max(lengths[index] for index in batch) // 2
                    rest = [index for those in waiting for index in those]
                    waiting = [[rest[n] for n in part] for part in batches([lengths[n] for n in rest], limit)]
                    continue
                for index, loss in zip(waiting.pop(0), found, strict=True):
                    losses[index] = loss
    finally:
        model.train(training)
    return losses


def _of_batch(model: Any, rows: Sequence[Row]) -> list[RowLoss] | None:
    """None: memory ran out, and there are several."""
    try:
        tensors = {name: x.to(model.device) for name, x in collate(rows).items()}
        sums = label_losses(model, tensors).tolist()
        return list(zip(sums, (tensors["labels"] != IGNORED).sum(1).tolist(), strict=True))
    except Exception as error:
        if len(rows) == 1 or not machine.is_out_of_memory(error):
            raise
    return None


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
