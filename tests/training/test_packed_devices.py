"""A pass on another device than the CPU, as far as that shows without one: on `meta`, where no tensor of the CPU may
take part; and the attention that is asked for there."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from meshtune.training.loss import Row, _ExactHead, exact_head, exact_product
from meshtune.training.packed.attention import _for_all_heads, _one
from meshtune.training.packed.base import PackedBase, _checkpointed, packed
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.rows import Portion, lay_out
from meshtune.training.recipe import Recipe
from tests.training.architectures import HYBRID, LENGTHS, PACKABLE, make

META = torch.device("meta")


class Asked(TorchFunctionMode):
    """Notes how attention was asked for: whether it has a mask, and fewer heads for keys."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch.dtype, bool, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key = args[:2]
            fewer = key.shape[1] != query.shape[1]
            assert fewer == bool(given.get("enable_gqa"))
            self.calls.append((query.dtype, given.get("attn_mask") is not None, fewer))
        return func(*args, **given)


@pytest.mark.parametrize(("dtype", "window"), [(torch.float32, None), (torch.float32, 5), (torch.bfloat16, 5)])
def test_keys_are_repeated_where_no_kernel_takes_fewer(dtype: torch.dtype, window: int | None) -> None:
    """Else a GPU computes in a kernel that keeps all scores; flash, in bf16 without a mask, takes them as they are."""
    query, key = torch.zeros(1, 8, 40, 16, dtype=dtype), torch.zeros(1, 2, 40, 16, dtype=dtype)
    with Asked() as asked:
        _one(query.to(META), key.to(META), key.to(META), None, window, None)
        _one(query.to(META, torch.bfloat16), *[key.to(META, torch.bfloat16)] * 2, None, None, None)
    assert asked.calls == [(dtype, window is not None, False), (torch.bfloat16, False, True)]


def test_repeated_keys_are_those_of_their_heads() -> None:
    query, key, value = (torch.randn(1, heads, 9, 16, generator=torch.manual_seed(0)) for heads in (8, 2, 2))
    expected = _one(query, key, value, None, 4, None)
    found = _one(query, *_for_all_heads(query, key, value), None, 4, None)
    assert torch.allclose(found, expected, atol=1e-6)


KINDS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16 over float32": (torch.float32, torch.bfloat16),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
NAMES = ("llama", "mistral", "gemma2", "gemma3", "qwen3", "olmo2", "granite", "longrope", "qwen3.5", "lfm2")


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pass_has_its_tensors_on_one_device(
    name: str, kinds: str, train_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """Forward, backward and a validation of two adapters, one with dropout; and with checkpointing.

    Losses and gradients are float32, and the logits of a base in bfloat16 too.
    """
    dtype, low = KINDS[kinds]
    base = make({**PACKABLE, **LENGTHS, **HYBRID}[name](), dtype)
    with packed(base, low) as pack:
        adapters = on_meta(pack, [make_recipe(rank=2), make_recipe(rank=4, dropout=0.1)])
        portions = [Portion(adapter, train_rows[:3], 0.1, 0) for adapter in adapters]
        batch = lay_out(portions, META, 8)
        for again in (contextlib.nullcontext(), _checkpointed(base)):
            with again:
                losses, total = pack.losses(batch, train=True)
                total.backward()  # type: ignore[no-untyped-call]
        measured, _ = pack.losses(lay_out(portions, META), train=False)
        found = (losses, measured, *(adapter.gradient for adapter in adapters))
        assert {(x.device, x.dtype) for x in found} == {(META, torch.float32)}
        assert pack._own_logits(batch, low).dtype == torch.float32
        with pytest.raises(RuntimeError, match="device"):  # so that it shows where one is elsewhere
            pack.losses(lay_out(portions, torch.device("cpu")), train=False)


def on_meta(pack: PackedBase, recipes: Sequence[Recipe]) -> list[FlatAdapter]:
    """Move a packed base to `meta`, with adapters."""
    base = pack.base
    positions = copy.deepcopy(base.base_model.rotary_emb)
    base.get_input_embeddings().to(META)  # by which the base's device is told; PEFT starts on the others'
    adapters = [FlatAdapter(base, recipe, pack.low) for recipe in recipes]
    base.to(META)
    if pack.forgets:  # these look at the longest position, which has no value there
        base.base_model.rotary_emb = OnCpu(positions)
    for group in pack.groups:
        group.dummy = torch.zeros((), device=META, requires_grad=True)
        group._stacked = None if group._stacked is None else group._stacked.to(META)
    return adapters


class OnCpu(torch.nn.Module):
    """Positions as the CPU computes them, for one long sequence."""

    def __init__(self, positions: torch.nn.Module):
        super().__init__()
        self.positions = positions

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = torch.arange(position_ids.shape[-1])[None]
        return tuple(part.to(META) for part in self.positions(torch.empty(0, dtype=x.dtype), places))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_product_of_the_head(device: str) -> None:
    """Float32 where a GPU gives it so; and its gradient is that of the layer."""
    head = torch.nn.Linear(16, 40).to(device, torch.bfloat16).requires_grad_(False)
    rows = torch.randn(1, 5, 16, device=device, dtype=torch.bfloat16).requires_grad_()
    with exact_head(head):
        logits = head(rows)
    assert logits.dtype == (torch.float32 if device == "meta" else torch.bfloat16)
    assert exact_product(rows[0], head.weight).dtype == logits.dtype
    assert "forward" not in vars(head)
    theirs = rows.detach().requires_grad_()
    given, expected = _ExactHead.apply(rows, head.weight, head.bias), head(theirs)  # type: ignore[no-untyped-call]
    weight = torch.randn(40, device=device)
    for output in (given, expected):
        (output * weight).sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.bfloat16
    if device == "cpu":
        assert torch.allclose(given, expected, rtol=0.02, atol=0.02)
        assert torch.allclose(rows.grad, theirs.grad, rtol=0.02)
