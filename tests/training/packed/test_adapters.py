"""Several adapters on linear layers: outputs and gradients against the formula and torch's own; masks of dropout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter
from meshtune.training.packed.adapters import Group, Now
from meshtune.training.packed.flat_adapter import FlatAdapter, Span, kept_share, mask
from meshtune.training.packed.label_head import CHUNK, head_losses
from meshtune.training.packed.rows import Portion, lay_out, pieces
from tests.training.architectures import PACKABLE, make
from tests.training.packed.test_trainer import MakeRecipe

NAMES = ("q_proj", "k_proj", "v_proj")


def adapters(base: Any, make_recipe: MakeRecipe, kind: torch.dtype = torch.float32) -> list[FlatAdapter]:
    """Three of different ranks and modules, whose B is not zero."""
    recipes = [
        make_recipe(rank=4, dropout=0.5, alpha=8),
        make_recipe(rank=16, alpha=4, target_modules="q_proj,v_proj", use_rslora=True),
        make_recipe(rank=128, target_modules="k_proj"),
    ]
    made = [FlatAdapter(base, recipe, kind) for recipe in recipes]
    for adapter in made:
        with torch.no_grad():
            adapter.weights.copy_(torch.randn_like(adapter.weights) / 10)
        adapter.refresh()
    return made


def naive(layers: Sequence[Any], spans: Sequence[Span], rows: torch.Tensor, weights: dict[int, dict[str, Any]]) -> Any:
    """The formula, differentiated by torch; `weights`: by span the matrices of each layer."""
    outputs = [layer(rows) for layer in layers]
    for at, span in enumerate(spans):
        for index, name in enumerate(NAMES):
            if span.adapter is None or name not in weights[at]:
                continue
            a, b = weights[at][name]
            own = rows[0, span.start : span.stop]
            if span.draw is not None and span.adapter.rate:
                key = span.adapter.seed, span.draw, index
                bits = mask(*own.shape, span.adapter.rate, key)
                own = own * bits.float() / span.adapter.kept
            change = span.adapter.scale * own @ a.t() @ b.t()
            added = torch.zeros_like(outputs[index])
            added[0, span.start : span.stop] = change
            outputs[index] = outputs[index] + added
    return outputs


@pytest.mark.parametrize("draw", [None, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_outputs_and_gradients(make_recipe: MakeRecipe, draw: int | None, transposed: bool) -> None:
    """Of three adapters on three layers, and rows of nobody's; gradients are added to what is there."""
    base = make(PACKABLE["llama"]())
    torch.manual_seed(1)
    sizes = (32, 16, 16)
    layers = [Conv1D(n, 32) if transposed else nn.Linear(32, n) for n in sizes]
    for layer in layers:
        layer.requires_grad_(False)
    made = adapters(base, make_recipe)
    for adapter in made:  # on layers of our own, by their short names
        short = {name.rpartition(".")[2]: pair for name, pair in adapter.pairs.items() if "layers.0.self_attn" in name}
        adapter.pairs = {name: short[name] for name in NAMES if name in short}
        adapter.gradient.fill_(1.0)
    spans = [Span(a, 5 * n, 5 * n + 5, draw) for n, a in enumerate(made)] + [Span(None, 15, 18)]
    now = Now(spans, [18])
    group = Group(
        [(n, name, layer) for n, (name, layer) in enumerate(zip(NAMES, layers, strict=True))], torch.float32, now
    )
    rows = torch.randn(1, 18, 32, requires_grad=True)
    found = [group.output(index, rows) for index in range(3)]
    same = rows.detach().clone().requires_grad_()
    weights = {
        at: {name: tuple(x.clone().requires_grad_() for x in pair.at(torch.float32)) for name, pair in a.pairs.items()}
        for at, a in enumerate(made)
    }
    expected = naive(layers, spans, same, {**weights, 3: {}})
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    sums = [sum((output * output.detach().cos()).sum() for output in outputs) for outputs in (found, expected)]
    for total in sums:
        assert isinstance(total, torch.Tensor)
        total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(rows.grad, same.grad)
    for at, adapter in enumerate(made):
        for name, pair in adapter.pairs.items():
            a, b = weights[at][name]
            torch.testing.assert_close(pair.grad_a, a.grad + 1)
            torch.testing.assert_close(pair.grad_b, b.grad + 1)


@pytest.mark.parametrize("training", [True, False])
def test_over_a_base_in_bfloat16_adapters_are_float32(make_recipe: MakeRecipe, training: bool) -> None:
    """As PEFT's layer computes them: where training's precision is so, and where they are only measured."""
    base = make(PACKABLE["llama"](), torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj"
    recipe = make_recipe(rank=16)
    adapter = FlatAdapter(base, recipe, torch.float32 if training else torch.bfloat16)
    with torch.no_grad():
        adapter.weights.copy_(torch.randn_like(adapter.weights) / 10)
    a, b = adapter.pairs[name].at(torch.float32)
    rows = torch.randn(1, 9, 32).bfloat16().requires_grad_()
    own = rows.detach().clone().requires_grad_()
    with new_adapter(base, lora_config(base, recipe), 0) as peft, torch.enable_grad():
        layer = peft.model.get_submodule(f"base_model.model.{name}")
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
        expected = layer(own)
        expected.float().square().sum().backward()
        gradients = [layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
    now = Now([Span(adapter, 0, 9, 0)], [9])
    group = Group([(0, name, base.get_submodule(name))], torch.float32 if training else torch.bfloat16, now)
    found = group.output(0, rows)
    found.float().square().sum().backward()
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.004, atol=0)  # the last bit
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, own.grad, rtol=0.02, atol=0.1)
    for ours, theirs in zip((adapter.pairs[name].grad_a, adapter.pairs[name].grad_b), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_first_layer_needs_no_gradient_of_its_input(make_recipe: MakeRecipe) -> None:
    """Rows that need none still give the adapter its gradient; without an adapter there is no graph."""
    base = make(PACKABLE["llama"]())
    layer = base.model.layers[0].self_attn.q_proj
    adapter = adapters(base, make_recipe)[0]
    now = Now([Span(adapter, 0, 4)], [4])
    group = Group([(0, "model.layers.0.self_attn.q_proj", layer)], torch.float32, now)
    rows = torch.randn(1, 4, 32)
    group.output(0, rows).sum().backward()
    assert adapter.gradient.abs().sum() > 0
    now.spans = [Span(None, 0, 4)]
    assert not group.output(0, rows).requires_grad


def test_outputs_belong_to_the_input_that_they_were_made_of(make_recipe: MakeRecipe) -> None:
    """A layer that is given another tensor, or the same once more, computes anew."""
    layers = [nn.Linear(4, 3).requires_grad_(False) for _ in range(2)]
    group = Group([(n, str(n), layer) for n, layer in enumerate(layers)], torch.float32, Now([], [2]))
    one, other = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    group.output(0, one)
    torch.testing.assert_close(group.output(1, other), layers[1](other))
    torch.testing.assert_close(group.output(1, other), layers[1](other))
    torch.testing.assert_close(group.output(0, one), layers[0](one))


def test_an_adapter_starts_as_peft_starts_it(make_recipe: MakeRecipe) -> None:
    """B zero, A within one over the root of its inputs, and the flat weights are the matrices."""
    base = make(PACKABLE["llama"]())
    adapter = FlatAdapter(base, make_recipe(rank=8), torch.bfloat16)
    pair = adapter.pairs["model.layers.1.mlp.down_proj"]
    assert pair.b.abs().max() == 0
    assert 0.9 < pair.a.abs().max() * 64**0.5 <= 1
    adapter.weights.data.fill_(0.3)
    adapter.refresh()
    assert (pair.a == 0.3).all()
    assert (pair.low_b == torch.tensor(0.3).bfloat16()).all()


def test_masks() -> None:
    """Rates as asked, neighbours independent, the same for the same key, others for any other."""
    drawn = mask(1000, 501, 0.1, (1, 2, 3)).float()
    assert drawn.unique().tolist() == [0, 1]
    assert drawn.mean().item() == pytest.approx(kept_share(0.1), abs=0.002)
    assert kept_share(0.1) == pytest.approx(0.9, abs=1e-4)
    for lag in range(1, 9):
        both = (drawn.flatten()[lag:] * drawn.flatten()[:-lag]).mean().item()
        assert both == pytest.approx(kept_share(0.1) ** 2, abs=0.003)
    assert mask(1000, 501, 0.1, (1, 2, 3)).float().equal(drawn)
    for key in ((0, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)):
        share = (mask(1000, 501, 0.1, key).float() * drawn).mean().item()
        assert share == pytest.approx(kept_share(0.1) ** 2, abs=0.003)


@pytest.mark.parametrize("bias", [False, True])
def test_head(bias: bool) -> None:
    """Losses and gradients of more rows than a chunk, with shares of their own, as torch has them."""
    torch.manual_seed(0)
    rows, words = CHUNK + 30, 17
    hidden, same = (torch.randn(rows, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    weight, labels, shares = torch.randn(words, 6), torch.randint(words, (rows,)), torch.rand(rows)
    shift = torch.randn(words) if bias else None
    losses, total = head_losses(hidden, weight, shift, labels, shares)
    expected = nn.functional.cross_entropy(nn.functional.linear(same, weight, shift), labels, reduction="none")
    torch.testing.assert_close(losses, expected.detach())
    (3 * total).backward()  # type: ignore[no-untyped-call]
    (3 * (expected * shares).sum()).backward()
    torch.testing.assert_close(hidden.grad, same.grad)


@pytest.mark.parametrize("multiple", [1, 8])
def test_pieces_of_a_portion_have_its_masks(base: Any, make_recipe: MakeRecipe, multiple: int) -> None:
    """Row by row, whatever the pieces are filled up with."""
    adapter, device = FlatAdapter(base, make_recipe(dropout=0.5), torch.float32), torch.device("cpu")
    rows = [(np.arange(length, dtype=np.int32), np.ones(length, dtype=np.bool_)) for length in (5, 9, 3, 7)]
    portion = Portion(adapter, rows, 0.1, draw=3)
    (span,) = lay_out([portion], device, multiple).spans
    whole = span.mask(64, 2)
    assert whole is not None
    parts = pieces(portion, 12)
    assert [part.tokens for part in parts] == [5, 12, 7]
    begin = 0
    for part, own in zip(parts, lay_out(parts, device, multiple).spans, strict=True):
        found = own.mask(64, 2)
        assert found is not None
        assert len(found) == own.stop - own.start
        assert found[: part.tokens].equal(whole[begin : begin + part.tokens])
        begin += part.tokens
