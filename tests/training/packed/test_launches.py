"""The budget of launches: a layer of Llama, forward and backward, on `meta`, where the path of a GPU is taken."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig

from meshtune.training.loss import Row
from meshtune.training.packed.base import packed
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.launches import LaunchCounter, count, launches
from meshtune.training.packed.rows import Portion, lay_out
from meshtune.training.packed.trainer import train_pack
from meshtune.training.steps import Step
from tests.training.architectures import WORDS, make
from tests.training.conftest import make_rows

META = torch.device("meta")
ADAPTERS = 8
RANKS = (4, 8, 8, 16, 16, 16, 32, 64)


def llama(layers: int) -> Any:
    return make(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def counted(layers: int, rows: list[Row], dropout: float, low: torch.dtype, make_recipe: Any) -> LaunchCounter:
    """Forward and backward of eight adapters on seven targets, each with these rows, without the layout's copies."""
    base = llama(layers)
    with packed(base, low) as pack:
        base.get_input_embeddings().to(META)  # by which the base's device is told; PEFT starts on the others'
        adapters = [FlatAdapter(base, make_recipe(rank=rank, dropout=dropout), low) for rank in RANKS]
        assert all(len(adapter.pairs) == 7 * layers for adapter in adapters)
        base.to(META)
        for group in pack.groups:
            group.dummy = torch.zeros((), device=META, requires_grad=True)
            group._stacked = None if group._stacked is None else group._stacked.to(META)
        batch = lay_out([Portion(adapter, rows, 0.1, 0) for adapter in adapters], META, 8)
        for _ in range(2):  # the first pass takes memory for stacks of matrices
            found = count(lambda: pack.losses(batch, train=True)[1].backward())  # type: ignore[no-untyped-call]
        return found


# What a layer may launch, forward and backward. To be lowered, never raised; the aim: 150 with dropout, 100 without.
BOUNDS = {
    (torch.bfloat16, 0.1): 136,
    (torch.bfloat16, 0.0): 136,
    (torch.float32, 0.1): 104,
    (torch.float32, 0.0): 112,
}


@pytest.mark.parametrize(("low", "dropout"), BOUNDS)
def test_a_layer_keeps_to_its_launches(low: torch.dtype, dropout: float, make_recipe: Any) -> None:
    rows = make_rows(8, 1)
    one, two = (counted(layers, rows, dropout, low, make_recipe) for layers in (1, 2))
    layer = two.kernels - one.kernels
    assert layer.total() <= BOUNDS[low, dropout], layer
    assert not two.waits


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float32])
def test_launches_do_not_grow_with_rows(low: torch.dtype, make_recipe: Any) -> None:
    """Of rows with one label each: the head takes labels in chunks."""
    rows = [(tokens, np.arange(len(tokens)) == len(tokens) - 1) for tokens, _ in make_rows(8, 1)]
    few, many = (counted(1, some, 0.1, low, make_recipe) for some in (rows[:2], rows))
    assert few.kernels == many.kernels


class Reads(TorchFunctionMode):
    """Counts by what the host reads values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "item", "cpu", "__bool__", "__float__", "__int__", "numpy"):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_the_host_reads_losses_once_a_pass(base: Any, train_rows: list[Row], make_recipe: Any) -> None:
    """22 rows in steps of 8, each of two portions."""
    recipes = [make_recipe(rank=rank, dropout=0.1) for rank in (2, 4, 8)]
    steps = train_pack(base, train_rows, train_rows[:2], recipes, at="last")
    next(steps)  # after the first pass: what comes before it is the check at load
    with Reads() as reads, LaunchCounter() as counter:
        told = [next(steps)[1] for _ in range(3 * 4 - 1)]  # of four passes, which end before an epoch does
    assert [event.step for event in told if isinstance(event, Step)][-3:] == [2, 2, 2]
    assert reads.found == ["tolist"] * 3
    assert not counter.waits


def test_views_and_taken_memory_launch_nothing() -> None:
    def work() -> None:
        x = torch.empty(4, 6, device=META)
        x.t().reshape(3, 8).view(-1)[:5].detach()
        x.to(torch.float32)
        torch.empty_like(x).split(2)

    assert count(work).total == 1  # of the transposed, `reshape` makes a copy


def test_what_is_declared_counts_instead_of_what_is_in_it() -> None:
    @launches(2)
    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x.sin().cos().exp())

    @launches(1)
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    x = torch.zeros(3)
    found = count(lambda: inner(outer(x)) * 2)
    assert found.kernels == {"outer": 2, "inner": 1, "mul": 1}
    assert outer.launches == 2  # type: ignore[attr-defined]


def test_waits_are_noted() -> None:
    assert count(lambda: torch.ones(3).sum().item()).waits == {"_local_scalar_dense": 1}
