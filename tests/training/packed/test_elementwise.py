"""What is one kernel each on a GPU, computed on a CPU step by step: it is what the models compute themselves."""

import sys
from typing import Any

import pytest
import torch

from meshtune.training.packed.adapters import Now
from meshtune.training.packed.elementwise import replaced
from tests.training.architectures import PACKABLE, WORDS, make

# Norms, gated layers, and whether the rotary function is replaced, of two layers.
REPLACED = {
    "llama": (5, 2, True),
    "qwen2": (5, 2, True),
    "qwen3": (9, 2, True),
    "mistral": (5, 2, True),
    "gemma2": (9, 2, True),
    "gemma3": (13, 2, True),
    "phi": (0, 0, True),
    "phi3": (5, 0, True),
    "granite": (5, 2, True),
    "gpt2": (0, 0, False),
}


def computed(base: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two rows, and the gradient of their input."""
    ids = torch.randint(WORDS, (2, 12), generator=torch.Generator().manual_seed(0))
    embedded = base.get_input_embeddings()(ids).detach().requires_grad_()
    logits = base(inputs_embeds=embedded, use_cache=False).logits
    logits.square().mean().backward()
    return logits.detach(), embedded.grad


@pytest.mark.parametrize("name", REPLACED)
def test_it_is_what_the_model_computes(name: str) -> None:
    base = make(PACKABLE[name]())
    file = sys.modules[type(base).__module__]
    rotary = getattr(file, "apply_rotary_pos_emb", None)
    expected = computed(base)
    with replaced(base, Now(), cpu=True):
        own = [type(part).__name__ for part in base.modules() if "forward" in vars(part)]
        norms = sum(part.endswith("RMSNorm") for part in own)
        assert (norms, len(own) - norms, getattr(file, "apply_rotary_pos_emb", None) is not rotary) == REPLACED[name]
        found = computed(base)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()
    assert not any("forward" in vars(part) for part in base.modules())
    assert getattr(file, "apply_rotary_pos_emb", None) is rotary


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_types_are_the_models(name: str) -> None:
    base = make(PACKABLE[name](), torch.bfloat16)
    expected = computed(base)
    with replaced(base, Now(kind=torch.bfloat16), cpu=True):
        found = computed(base)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= 0.05 * other.abs().max()


def test_a_norm_that_computes_otherwise_stays() -> None:
    base = make(PACKABLE["llama"]())
    norm = base.model.norm
    type(norm).forward, usual = lambda self, x: self.weight * x, type(norm).forward
    try:
        with replaced(base, Now(), cpu=True):
            assert "forward" not in vars(norm)
    finally:
        type(norm).forward = usual
