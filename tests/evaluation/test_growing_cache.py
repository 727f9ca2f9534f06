"""A growing cache holds what Transformers' own one holds, whatever is done to it on the way."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig

from meshtune.evaluation.growing_cache import ROOM, GrowingLayer, align, growing

CONFIG = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
STEPS = st.lists(st.sampled_from(["one", "many", "select", "repeat", "copy"]), max_size=12)


@given(STEPS)
def test_it_holds_what_the_other_holds(steps: list[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, other = growing(CONFIG), DynamicCache(config=CONFIG)
    rows = 3
    for step in ["many", *steps, "one"]:
        if step == "select":
            rows = 2
            for cache in (ours, other):
                cache.batch_select_indices(torch.tensor([1, 0]))
        elif step == "repeat":
            rows *= 2
            for cache in (ours, other):
                cache.batch_repeat_interleave(2)
        elif step == "copy":
            left, ours = ours, copy.deepcopy(ours)
            left.update(*torch.full((2, rows, 2, 1, 8), 7.0), 0)  # another's tokens are not seen
        else:
            places = 1 if step == "one" else ROOM + 1
            for layer in range(2):
                new = torch.randn(2, rows, 2, places, 8, generator=generator)
                for mine, theirs in zip(ours.update(*new, layer), other.update(*new, layer), strict=True):
                    assert torch.equal(mine, theirs)
        assert ours.get_seq_length() == other.get_seq_length()


def test_what_is_held_stays_in_place() -> None:
    layer = growing(CONFIG).layers[0]
    assert isinstance(layer, GrowingLayer)
    places = set()
    for _ in range(ROOM):
        keys, _values = layer.update(*torch.randn(2, 3, 2, 1, 8))
        places.add(keys.data_ptr())
    assert len(places) == 1


def test_windows_that_slide_are_held_whole() -> None:
    kinds = ["full_attention", "sliding_attention", "conv"]
    config = LlamaConfig(num_hidden_layers=3, layer_types=kinds, sliding_window=4)
    names = [type(layer).__name__ for layer in growing(config).layers]
    assert names == ["GrowingLayer", "GrowingLayer", "LinearAttentionLayer"]


def test_rows_are_moved_to_end_together() -> None:
    cache = growing(CONFIG)
    for layer in range(2):
        cache.update(*torch.arange(6.0).expand(2, 3, 2, 8, 6).transpose(-1, -2).clone(), layer)
    align(cache, torch.tensor([2, 5]))
    for layer in cache.layers:
        for held in (layer.keys, layer.values):
            assert held.shape == (2, 2, 5, 8)
            assert held[0, 0, -2:, 0].tolist() == [0, 1]
            assert held[1, 0, :, 0].tolist() == [0, 1, 2, 3, 4]
    keys, _ = cache.update(*torch.full((2, 2, 2, 1, 8), 7.0), 0)
    assert keys[:, 0, -2:, 0].tolist() == [[1, 7], [4, 7]]


def test_states_that_cannot_be_moved() -> None:
    config = LlamaConfig(num_hidden_layers=1, layer_types=["indexed_attention"])
    cache = growing(config)
    cache.update(*torch.zeros(2, 1, 2, 3, 8), 0)
    with pytest.raises(TypeError, match="DynamicIndexedLayer has no places"):
        align(cache, torch.tensor([2]))
