"""The output head and the loss where labels are, without keeping logits: their gradient is made in the forward pass.

The logits of a chunk of rows live only while the chunk is computed, so memory does not grow with the vocabulary times
the labels. The head is frozen, its products are computed in the type of its copy; losses are float32.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 512  # rows; at a vocabulary of 50,000 words 100 MB of logits


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
            here = labels[chunk, None]
            logits = (hidden[chunk].to(weight.dtype) @ weight.t()).float()
            if bias is not None:
                logits += bias
            logits -= logits.amax(1, keepdim=True)
            wanted = logits.gather(1, here)
            sums = logits.exp_().sum(1, keepdim=True)
            losses[chunk] = (sums.log() - wanted)[:, 0]
            if gradient is not None:
                share = shares[chunk, None]
                logits *= share / sums
                logits.scatter_add_(1, here, -share)
                gradient[chunk] = logits.to(weight.dtype) @ weight
        ctx.gradient = gradient
        ctx.mark_non_differentiable(losses)
        return losses @ shares, losses

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        return ctx.gradient * grads[0], None, None, None, None
