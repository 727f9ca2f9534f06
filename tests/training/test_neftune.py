"""NEFTune's noise: how large it is, and what it depends on."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.integrations.neftune import neftune_post_forward_hook

from meshtune.training.neftune import adding, draw, scaled
from meshtune.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


def test_its_size_is_that_of_transformers() -> None:
    """Of one row, which is not padded: the largest value, and the mean square of an even distribution."""
    alpha, tokens, width = 5.0, 50, 64
    ours = scaled(draw(tokens, width, 3, 7, CPU), torch.full((tokens,), tokens), alpha)
    module = torch.nn.Embedding(2, width)
    module.neftune_noise_alpha = alpha
    theirs = neftune_post_forward_hook(module.train(), None, torch.zeros(1, tokens, width))
    most = alpha / math.sqrt(tokens * width)
    for noise in (ours, theirs):
        assert float(noise.abs().max()) == pytest.approx(most, rel=0.01)
        assert float(noise.square().mean()) == pytest.approx(most**2 / 3, rel=0.05)


def test_what_it_depends_on() -> None:
    """Seed and micro-batch; not on how many of its tokens are drawn."""
    assert torch.equal(draw(9, 4, 1, 2, CPU)[:5], draw(5, 4, 1, 2, CPU))
    assert not torch.equal(draw(5, 4, 1, 2, CPU), draw(5, 4, 1, 3, CPU))
    assert not torch.equal(draw(5, 4, 1, 2, CPU), draw(5, 4, 2, 2, CPU))


def test_nothing_stays(base: Any) -> None:
    embedding, ids = base.get_input_embeddings(), torch.arange(5)[None]
    before = embedding(ids)
    with adding(base, lambda output: torch.ones_like(output)):
        assert torch.equal(embedding(ids), before + 1)
    assert torch.equal(embedding(ids), before)
