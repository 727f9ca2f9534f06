"""The output head and the loss where labels are, without keeping logits: their gradient is made in the forward pass.

The logits of a chunk of rows live only while the chunk is computed, and their gradient takes their place, so memory
does not grow with the vocabulary times the labels. Between the two products a few rows at a time are made losses of:
as float32 they then stay in the processor's cache. The head is frozen, its products are computed in the type of its
copy; logits are float32 where `exact_product` gives them so, and losses everywhere.
"""

from __future__ import annotations

from typing import Any

import torch

from meshtune.training.loss import exact_product

CHUNK = 512  # rows; at a vocabulary of 50,000 words 50 MB of logits in bfloat16
_CACHED = 1 << 18  # logits; 1 MB in float32


def head_losses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross entropy of each row, and its sum weighted by `shares`, which alone can be differentiated.

    Args:
        hidden: (rows, width) before the head. weight: (words, width). labels, shares: (rows,), whole and float32.
    """
    total, losses = _HeadLosses.apply(hidden, weight, bias, labels, shares)  # type: ignore[no-untyped-call]
    return losses, total


class _HeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        shares: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for begin in range(0, len(hidden), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            logits = exact_product(hidden[chunk], weight)
            _to_losses(logits, bias, labels[chunk], shares[chunk], losses[chunk], gradient is not None)
            if gradient is not None:
                gradient[chunk] = logits.to(weight.dtype) @ weight
        ctx.gradient = gradient
        ctx.mark_non_differentiable(losses)
        return losses @ shares, losses

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        return ctx.gradient * grads[0], None, None, None, None


def _to_losses(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    shares: torch.Tensor,
    losses: torch.Tensor,
    differentiate: bool,
) -> None:
    """Write the losses of some rows, and where asked the gradient in the place of the logits."""
    rows = len(logits) if logits.is_cuda else max(1, _CACHED // logits.shape[1])
    for begin in range(0, len(logits), rows):
        some = slice(begin, begin + rows)
        here, own = labels[some, None], logits[some].float()
        if bias is not None:
            own += bias
        own -= own.amax(1, keepdim=True)
        wanted = own.gather(1, here)
        sums = own.exp_().sum(1, keepdim=True)
        losses[some] = (sums.log() - wanted)[:, 0]
        if differentiate:
            share = shares[some, None]
            own.mul_(share / sums).scatter_add_(1, here, -share)
            if own.dtype != logits.dtype:  # else it is there already
                logits[some] = own
