"""Pieces that are compiled: as those that are not; and what is said where there is no compiler."""

import shutil
from typing import Any

import pytest
import torch

from meshtune.training.packed import fused
from meshtune.training.packed.adapters import Now
from meshtune.training.packed.elementwise import replaced
from tests.training.architectures import PACKABLE, make
from tests.training.packed.test_grouped import computed
from tests.training.packed.test_trainer import MakeRecipe


def all_pieces(make_recipe: MakeRecipe) -> list[torch.Tensor]:
    """A group of layers with masks, and a model's logits and their gradient."""
    base = make(PACKABLE["llama"]())
    rows = torch.randn(1, 9, 32, generator=torch.manual_seed(0)).requires_grad_()
    with replaced(base, Now(), cpu=True):
        logits = base(inputs_embeds=rows, use_cache=False).logits
        logits.square().sum().backward()
    assert rows.grad is not None
    return [logits.detach(), rows.grad, *computed(make_recipe, torch.float32, 0.5, True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_as_not_compiled(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler for CPUs: but for rounding the same, with the same masks."""
    plain = all_pieces(make_recipe)
    monkeypatch.setattr(fused, "compiles", lambda device: True)
    for one, other in zip(all_pieces(make_recipe), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing on a CPU, or where it is turned off."""

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C compiler\nand many words more")

    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    compiles = fused.compiles.__wrapped__
    assert not compiles("cpu")
    assert not caplog.records
    assert not compiles("cuda")
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(fused, "_tiny", fails)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert not compiles("cuda")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records][1] == "RuntimeError: no C compiler"
    monkeypatch.setenv(fused.SWITCH, "0")
    assert not compiles("cuda")
    assert len(caplog.records) == 2
