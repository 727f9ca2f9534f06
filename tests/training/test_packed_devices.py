"""A pass on another device than the CPU, as far as that shows without one: on `meta`, where no tensor of the CPU may
take part; and the attention that is asked for there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from meshtune.training.loss import Row
from meshtune.training.packed.attention import _for_all_heads, _one
from meshtune.training.packed.base import packed
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.rows import Portion, lay_out
from meshtune.training.recipe import Recipe
from tests.training.architectures import PACKABLE, make

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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "qwen3", "granite"])
def test_a_pass_has_its_tensors_on_one_device(
    name: str, low: torch.dtype, checkpointing: bool, train_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """Forward, backward and a validation of two adapters."""
    base = make(PACKABLE[name]())
    with packed(base, low, checkpointing=checkpointing) as pack:
        base.get_input_embeddings().to(META)  # by which the base's device is told; PEFT starts on the others'
        adapters = [FlatAdapter(base, make_recipe(rank=rank), low) for rank in (2, 4)]
        base.to(META)
        for group in pack.groups:
            group.dummy = torch.zeros((), device=META, requires_grad=True)
            group._stacked = None if group._stacked is None else group._stacked.to(META)
        portions = [Portion(adapter, train_rows[:3], 0.1, 0) for adapter in adapters]
        losses, total = pack.losses(lay_out(portions, META, 8), train=True)
        total.backward()  # type: ignore[no-untyped-call]
        measured, _ = pack.losses(lay_out(portions, META), train=False)
        assert {x.device for x in (losses, measured, *(adapter.gradient for adapter in adapters))} == {META}
        with pytest.raises(RuntimeError, match="device"):  # so that it shows where one is elsewhere
            pack.losses(lay_out(portions, torch.device("cpu")), train=False)
