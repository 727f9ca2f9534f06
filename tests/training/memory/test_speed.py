"""Predicted speeds: limiting cases by hand, and what packs gain."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from meshtune.training.memory.cards import Card, cards
from meshtune.training.memory.formula import full_batch
from meshtune.training.memory.packs import PackSetting
from meshtune.training.memory.shape import measure
from meshtune.training.memory.speed import LAUNCH, LAUNCHES, SHARE, Speed
from meshtune.training.recipe import Recipe
from tests.training.memory.test_packs import LLAMA_8B

SMOLLM = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


def speed(config: LlamaConfig, row: float = 250.0, labels: float = 0.5, quantization: str | None = None) -> Speed:
    with torch.device("meta"):
        shape = measure(AutoModelForCausalLM.from_config(config))
    setting = PackSetting(shape, full_batch(16, 300), "cuda", "bfloat16", quantization)
    return Speed(setting, cards("H100").card, row, labels)


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe({"precision": "bfloat16", "batch_size": 16}, rank=16)


def test_a_large_pass_is_bound_by_products(recipe: Recipe) -> None:
    """About 4 operations a weight and token: at 8B some 12,000 tokens a second of 40 % of an H100's peak."""
    at = speed(LLAMA_8B)
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    by_hand = SHARE * 989e12 / (4 * linear)
    assert at.training([recipe]) == pytest.approx(by_hand, rel=0.15)
    assert at.training([recipe]) < by_hand, "adapters, head and attention are more"
    assert at.training([recipe] * 8) == pytest.approx(at.training([recipe]), rel=0.05)
    assert at.validation() == pytest.approx(2 * by_hand, rel=0.15)


def test_a_small_pass_is_bound_by_launches(recipe: Recipe) -> None:
    """There eight trials take the time of one."""
    small = replace(recipe, batch_size=4)
    at = speed(SMOLLM, row=80)
    launches = 30 * LAUNCHES * LAUNCH
    assert at.training([small]) == pytest.approx(4 * 80 / launches, rel=0.02)
    assert at.training([small] * 8) == pytest.approx(8 * at.training([small]), rel=0.02)


def test_checkpointing_costs_the_forward_pass_once_more(recipe: Recipe) -> None:
    """Half of what a frozen base costs, whether products, weights or launches bind."""
    again = replace(recipe, gradient_checkpointing=True)
    assert speed(LLAMA_8B).training([recipe]) == pytest.approx(1.45 * speed(LLAMA_8B).training([again]), rel=0.04)
    small, row = replace(again, batch_size=1), 20.0
    for config in (LLAMA_8B, SMOLLM):
        at = speed(config, row)
        assert at.training([replace(small, gradient_checkpointing=False)]) == pytest.approx(
            1.5 * at.training([small]), rel=0.03
        )


def test_weights_in_few_bits_are_written_out_each_time(recipe: Recipe) -> None:
    """Which binds small passes on a card with little bandwidth."""
    slow = Card("slow", 10**11, 1e15, 1e14, 3e11)
    small = replace(recipe, batch_size=1)
    plain, few = (replace(speed(LLAMA_8B, 100, quantization=q), card=slow) for q in (None, "nf4"))
    assert plain.training([small]) == pytest.approx(4.5 / 2 * few.training([small]), rel=0.05)


def test_passes_are_cut_where_memory_is_short(recipe: Recipe) -> None:
    """Eight small portions of a pass, one by one, take eight passes; a large portion as many as it is cut in."""
    small = replace(recipe, batch_size=4)
    at = speed(SMOLLM, row=80)
    cut = at.training([replace(small, pass_tokens=320)] * 8)
    assert cut == pytest.approx(at.training([small]), rel=0.02)
    large = replace(recipe, pass_tokens=1000)
    assert speed(SMOLLM).training([large]) == pytest.approx(1000 / (30 * LAUNCHES * LAUNCH), rel=0.02)


def test_what_packs_gain(recipe: Recipe) -> None:
    """A small model with small batches gains until products bind; an 8B model with large ones nothing."""
    small = replace(recipe, batch_size=4)
    assert speed(SMOLLM, row=80).gains(small, 64) >= 8
    assert speed(SMOLLM, row=80).gains(small, 4) == 4
    assert speed(LLAMA_8B).gains(recipe, 64) == 1


def test_passes_that_are_enough(recipe: Recipe) -> None:
    """Products take four times as long as launches there, so that a larger pass is hardly faster a token."""
    at = speed(LLAMA_8B)
    tokens = at.enough(recipe)
    assert 1000 < tokens < 3000
    whole, cut = (at.training([replace(recipe, batch_size=64, pass_tokens=n)]) for n in (16384, tokens))
    assert cut == pytest.approx(whole, rel=0.02)
    assert at.training([replace(recipe, batch_size=64, pass_tokens=tokens // 8)]) < 0.6 * whole
