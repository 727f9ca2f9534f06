"""Attention over sequences that lie end to end: each attends to itself alone, one call of SDPA a sequence.

It is given to Transformers under a name for which no mask function is registered, so that models make no mask; one
that makes its own is refused. Causal only. Softcaps, which SDPA lacks, are computed step by step. On a CPU it computes
in float32, on a GPU in the type of the products. Not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from meshtune.training.packed.adapters import Now
from meshtune.training.packed.unpackable import Unpackable

_REFUSED = ("s_aux", "sinks", "position_bias")


def attention(now: Now) -> Callable[..., tuple[torch.Tensor, None]]:
    """The function for a base that computes what `now` says, as `AttentionInterface` wants it."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **given: Any,
    ) -> tuple[torch.Tensor, None]:
        if attention_mask is not None:
            raise Unpackable("the model makes an attention mask of its own")
        for name in _REFUSED:
            if given.get(name) is not None:
                raise Unpackable(f"the model's attention has `{name}`")
        if query.shape[0] != 1 or query.shape[2] != sum(now.lengths) or key.shape[2] != query.shape[2]:
            raise Unpackable("the model's attention is given other rows than the tokens of the batch")
        now.attended += 1
        kind = now.kind if query.is_cuda else torch.float32
        lengths = list(now.lengths)
        split = zip(*(torch.split(states.to(kind), lengths, 2) for states in (query, key, value)), strict=True)
        parts = [_one(q, k, v, scaling, sliding_window, softcap).transpose(1, 2) for q, k, v in split]
        return torch.cat(parts, 1).to(query.dtype), None

    return attend


def _one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of one sequence: (1, heads, tokens, size), keys and values perhaps of fewer heads."""
    length = query.shape[2]
    seen = None
    if window is not None and window < length:
        place = torch.arange(length, device=query.device)
        behind = place[:, None] - place
        seen = (behind >= 0) & (behind < window)
    if softcap is not None:
        return _capped(query, key, value, scale, seen, softcap)
    fewer = key.shape[1] != query.shape[1]
    if fewer and query.device.type != "cpu" and (seen is not None or query.dtype == torch.float32):
        # Only flash takes fewer heads, and it knows neither masks nor float32: else all scores would be kept.
        key, value, fewer = *_for_all_heads(query, key, value), False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scale, enable_gqa=fewer
    )


def _for_all_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    repeats = query.shape[1] // key.shape[1]
    return key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    seen: torch.Tensor | None,
    softcap: float,
) -> torch.Tensor:
    length, size = query.shape[2:]
    key, value = _for_all_heads(query, key, value)
    scores = query @ key.transpose(2, 3) * (size**-0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    if seen is None:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    weights = scores.float().masked_fill(~seen, float("-inf")).softmax(-1)
    return weights.to(value.dtype) @ value
