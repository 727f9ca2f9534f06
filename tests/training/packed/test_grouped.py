"""The grouped path of a GPU, computed on a CPU: against the loop over adapters, and its own masks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from meshtune.training.optimizers import optimizer_of
from meshtune.training.packed import grouped
from meshtune.training.packed.adapters import Group, Now
from meshtune.training.packed.flat_adapter import FlatAdapter, Span, kept_share
from meshtune.training.packed.grouped import Rows
from meshtune.training.recipe import Recipe
from tests.training.architectures import PACKABLE, make

CPU = torch.device("cpu")
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
SIZES = (32, 16, 16)
LENGTHS = (16, 8, 24, 8)
MakeRecipe = Callable[..., Recipe]


def made_adapters(base: Any, make_recipe: MakeRecipe, kind: torch.dtype, dropout: float) -> list[FlatAdapter]:
    """Three of different ranks, modules and rates, one of them without dropout, whose B is not zero."""
    recipes = [
        make_recipe(rank=4, dropout=dropout, alpha=8),
        make_recipe(rank=16, alpha=4, target_modules="q_proj,v_proj", use_rslora=True),
        make_recipe(rank=19, dropout=dropout / 2, target_modules="k_proj,q_proj"),
    ]
    torch.manual_seed(0)
    adapters = [FlatAdapter(base, recipe, kind) for recipe in recipes]
    for adapter in adapters:
        with torch.no_grad():
            adapter.weights.copy_(torch.randn_like(adapter.weights) / 10)
        adapter.refresh()
        adapter.gradient.fill_(1.0)
    return adapters


def computed(
    make_recipe: MakeRecipe, kind: torch.dtype, dropout: float, together: bool, steps: int = 1
) -> list[torch.Tensor]:
    """Outputs, the gradient of the input and those of the adapters, of three layers and rows of nobody's among them."""
    base = make(PACKABLE["llama"]())
    adapters = made_adapters(base, make_recipe, kind, dropout)
    ends = [sum(LENGTHS[: n + 1]) for n in range(4)]
    owners = [adapters[0], None, adapters[1], adapters[2]]
    now = Now(grouped=together, kind=kind, lengths=[ends[-1]])
    torch.manual_seed(1)
    layers = [nn.Linear(32, size).requires_grad_(False) for size in SIZES]
    named = [(n, f"model.layers.1.{name}", layer) for n, (name, layer) in enumerate(zip(NAMES, layers, strict=True))]
    Group([(9, "nobody's", nn.Linear(32, 8))], kind, now)
    group = Group(named, kind, now)
    rows = torch.randn(1, ends[-1], 32, requires_grad=True)
    found: list[torch.Tensor] = []
    for step in range(steps):
        now.spans = tuple(
            Span(owner, end - length, end, step if dropout else None)
            for owner, end, length in zip(owners, ends, LENGTHS, strict=True)
        )
        outputs = [group.output(index, rows) for index in range(3)]
        sum((output.float() * output.detach().float().cos()).sum() for output in outputs).backward()  # type: ignore
        found += [*(output.detach() for output in outputs)]
        for adapter in adapters:
            with torch.no_grad():
                adapter.weights.sub_(adapter.gradient, alpha=1e-3)
            adapter.refresh()
    assert rows.grad is not None
    return [*found, rows.grad, *(adapter.gradient for adapter in adapters)]


@pytest.fixture(params=[False, True], ids=["grouped_mm", "bmm"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of products: a CPU has both."""
    monkeypatch.setattr("meshtune.training.packed.adapters.has_grouped_mm", lambda *_: not request.param)


@pytest.fixture
def masks_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop over adapters take them too."""

    def mask(span: Span, width: int, number: int) -> torch.Tensor | None:
        if not span.drops:
            return None
        rows = Rows([Span(span.adapter, 0, span.stop - span.start, span.draw, span.skipped)], CPU)
        keys = torch.from_numpy(grouped._words(grouped.np.uint64(0), [number]))
        return grouped._stays(rows.hashed, keys, width)[0].bfloat16()

    monkeypatch.setattr(Span, "mask", mask)


@pytest.mark.usefixtures("form", "masks_of_a_gpu")
@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_together_as_one_by_one(make_recipe: MakeRecipe, dropout: float) -> None:
    """In float32, over two steps between which the weights change."""
    one, other = (computed(make_recipe, torch.float32, dropout, together, 2) for together in (False, True))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("form", "masks_of_a_gpu")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_together_in_bfloat16(make_recipe: MakeRecipe, dropout: float) -> None:
    """As near to the loop in float32 as the loop in bfloat16 is, or twice as far at most."""
    exact = computed(make_recipe, torch.float32, dropout, False)
    loop, found = (computed(make_recipe, torch.bfloat16, dropout, together) for together in (False, True))
    for right, one, other in zip(exact, loop, found, strict=True):
        assert (other - right).norm() <= 2 * (one - right).norm() + 1e-3 * right.norm()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_who_diverges_harms_nobody(make_recipe: MakeRecipe, dropout: float) -> None:
    """Neither infinite weights nor infinite rows of one adapter reach another's outputs or gradients."""
    base = make(PACKABLE["llama"]())
    adapters = made_adapters(base, make_recipe, torch.float32, dropout)
    layer = nn.Linear(32, 32).requires_grad_(False)
    now = Now([Span(a, 8 * n, 8 * n + 8, 0) for n, a in enumerate(adapters)], [24], grouped=True)
    group = Group([(0, "model.layers.0.self_attn.q_proj", layer)], torch.float32, now)
    adapters[1].weights.data.fill_(float("nan"))
    rows = torch.randn(1, 24, 32)
    rows[0, 8:16] = float("inf")
    rows.requires_grad_()
    output = group.output(0, rows)
    output.square().sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    for x in (output[0], rows.grad[0]):
        assert x[:8].isfinite().all()
        assert x[16:].isfinite().all()
        assert not x[8:16].isfinite().any()
    assert adapters[0].gradient.isfinite().all()
    assert adapters[2].gradient.isfinite().all()


def test_stacks_hold_nothing_of_who_has_gone(make_recipe: MakeRecipe) -> None:
    """The next pass with other adapters forgets stacks of those that are gone, and keeps those that others use."""
    base = make(PACKABLE["llama"]())
    adapters = made_adapters(base, make_recipe, torch.float32, 0.0)
    layer = nn.Linear(32, 32).requires_grad_(False)
    now = Now(grouped=True, lengths=[8])
    group = Group([(0, "model.layers.0.self_attn.q_proj", layer)], torch.float32, now)

    def go(adapter: FlatAdapter) -> None:
        now.spans = [Span(adapter, 0, 8)]
        group.output(0, torch.randn(1, 8, 32))

    go(adapters[0])
    go(adapters[1])
    assert len(now._stacks._sets) == 2  # as where a pack has several passes
    now._rows = None
    now.spans = ()
    del adapters[0]
    go(adapters[-1])
    assert len(now._stacks._sets) == 2


def test_masks_of_a_gpu(make_recipe: MakeRecipe) -> None:
    """Rates as asked; rows, columns, modules, draws and adapters independent; a piece has the whole portion's rows."""
    base = make(PACKABLE["llama"]())
    one, other = (FlatAdapter(base, make_recipe(rank=2, dropout=0.1), torch.float32) for _ in range(2))
    other.seed = 17
    keys = torch.from_numpy(grouped._words(grouped.np.uint64(0), [4, 5]))

    def stays(*spans: Span) -> torch.Tensor:
        return grouped._stays(Rows(spans, CPU).hashed, keys, 501).float()

    share = kept_share(0.1)
    drawn = stays(Span(one, 0, 1000, 3), Span(other, 1000, 2000, 3))
    assert drawn.mean().item() == pytest.approx(share, abs=0.001)
    for a, b in (
        (drawn[0], drawn[1]),
        (drawn[:, :1000], drawn[:, 1000:]),
        (drawn[:, :1000], stays(Span(one, 0, 1000, 4))),
        *((drawn[:, lag:], drawn[:, :-lag]) for lag in (1, 2, 7)),
        *((drawn[..., lag:], drawn[..., :-lag]) for lag in (1, 2, 7)),
    ):
        assert (a * b).mean().item() == pytest.approx(share**2, abs=0.002)
    # A square of values shows whether two rows' masks are a function of one another.
    square = drawn[0, 1:, 1:] * drawn[0, :-1, 1:] * drawn[0, 1:, :-1] * drawn[0, :-1, :-1]
    assert square.mean().item() == pytest.approx(share**4, abs=0.004)
    assert drawn.mean((0, 1)).std().item() < 2 * (share * (1 - share) / 4000) ** 0.5
    piece = stays(Span(one, 0, 100, 3, skipped=300, drawn=1000))
    assert piece.equal(drawn[:, 300:400])
    assert stays(Span(one, 0, 10), Span(None, 10, 20)).all()


def test_where_grouped_mm_is_one_kernel() -> None:
    meta = torch.device("meta")
    assert grouped.has_grouped_mm(meta, torch.bfloat16, (64, 16))
    assert not grouped.has_grouped_mm(meta, torch.bfloat16, (64, 12))
    assert not grouped.has_grouped_mm(meta, torch.float32, (64, 16))
    assert not grouped.has_grouped_mm(CPU, torch.bfloat16, (64, 16))


def test_flat_weights_turned_and_back(make_recipe: MakeRecipe) -> None:
    """What is kept on disk is the same as where nothing is turned."""
    adapter = FlatAdapter(make(PACKABLE["llama"]()), make_recipe(rank=4), torch.float32)
    plain = torch.randn_like(adapter.weights)
    assert adapter.plain(plain) is plain
    assert adapter.own(plain) is plain
    adapter.turned = True
    assert adapter.plain(adapter.own(plain)).equal(plain)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    assert adapter._parts(adapter.own(plain), True)[name].equal(adapter._parts(plain)[name])
    assert adapter._parts(adapter.own(plain), True)[name].t().is_contiguous()


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "muon"])
def test_optimizers_step_over_turned_weights(make_recipe: MakeRecipe, optimizer: str) -> None:
    """In their own memory, as over those that are not turned."""
    recipe, found = make_recipe(rank=4, optimizer=optimizer, lora_plus_ratio=2.0, weight_decay=0.1), []
    for turned in (False, True):
        adapter = FlatAdapter(make(PACKABLE["llama"]()), recipe, torch.float32)
        adapter.turned = turned
        torch.manual_seed(0)
        start, gradient = (torch.randn_like(adapter.gradient) for _ in range(2))
        with torch.no_grad():
            adapter.weights.copy_(adapter.own(start))
            adapter.gradient.copy_(adapter.own(gradient))
        optimizer_of(adapter.matrices(), recipe).step()
        found.append(adapter.plain(adapter.weights.detach()))
    assert not found[0].equal(start)
    torch.testing.assert_close(found[1], found[0])
