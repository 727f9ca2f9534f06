"""A cache of keys and values that has room: those of a new token are written behind the others, which stay in place.

`DynamicLayer` of Transformers copies all that it holds with every token, half of the time of a step that decodes 24
answers of 500 tokens on a CPU (docs/decisions/2026-11-26-scoring.md). A layer whose window slides is held whole too,
and the mask hides what lies outside: Transformers' own one keeps its last places, padding among them, and so loses what
a short row still sees. Layers of other kinds, such as recurrent states, are left as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64  # places that are added when there is no room left


def growing(config: Any) -> DynamicCache:
    """An empty cache for a model of Transformers with this config."""
    cache = DynamicCache(config=config)
    whole = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [GrowingLayer() if type(layer) in whole else layer for layer in cache.layers]
    return cache


def align(cache: DynamicCache, lengths: torch.Tensor) -> None:
    """Keep the first places of the first rows, (rows,) so many of each, moved so that all rows end together.

    What a row has in front of its own is any of its places, to be hidden by the mask. Raises TypeError where the model
    holds states that cannot be moved.
    """
    rows, longest = torch.arange(len(lengths)), int(lengths.max())
    places = (torch.arange(longest) - (longest - lengths)[:, None]).clamp_min(0)
    for layer in cache.layers:
        if not isinstance(layer, GrowingLayer) and layer.keys is not None:
            raise TypeError(f"a {type(layer).__name__} has no places that can be moved")
        if layer.get_seq_length() > 0:
            where = rows[:, None].to(layer.device), slice(None), places.to(layer.device)
            layer.keys = layer.keys[where].transpose(1, 2)
            layer.values = layer.values[where].transpose(1, 2)


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # untyped
    """Holds views of larger tensors; whoever replaces `keys` or `values` makes it begin new ones."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._keys, self._values = _Room(), _Room()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take (rows, heads, new places, width) each; returns all that is held, (rows, heads, places, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._keys.behind(self.keys, key_states)
        self.values = self._values.behind(self.values, value_states)
        return self.keys, self.values


class _Room:
    """One growing tensor, and the view of it that was given out last."""

    def __init__(self) -> None:
        self.whole, self.view = torch.empty(0), torch.empty(0)

    def behind(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """What is held with what is new behind it."""
        before = held.shape[-2] if held.numel() else 0
        after = before + new.shape[-2]
        if held is not self.view or after > self.whole.shape[-2]:
            self.whole = new.new_empty(*new.shape[:-2], after + ROOM, new.shape[-1])
            if before:
                self.whole[..., :before, :] = held
        self.whole[..., before:after, :] = new
        self.view = self.whole[..., :after, :]
        return self.view
