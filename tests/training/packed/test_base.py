"""A base that serves several adapters: the loss that the untouched one has, sequences apart, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from meshtune.training.loss import Row, collate, label_losses
from meshtune.training.packed.adapters import is_linear
from meshtune.training.packed.base import _each_close, packed
from meshtune.training.packed.rows import Portion, gathered, in_portions, lay_out
from meshtune.training.packed.unpackable import Unpackable, check_packable
from meshtune.training.recipe import Recipe
from tests.training.architectures import HYBRID, MIXTURES, PACKABLE, REFUSED, make

CPU = torch.device("cpu")


def row_losses(base: Any, rows: list[Row], low: torch.dtype = torch.float32) -> list[float]:
    """The summed loss of each row, in one pass."""
    with packed(base, low) as pack:
        return [total for total, _ in pack.row_losses(lay_out([Portion(None, rows)], CPU))]


ALL = {**PACKABLE, **HYBRID, **MIXTURES}


@pytest.mark.parametrize("name", ALL)
def test_losses_are_those_of_the_untouched_model(name: str, train_rows: list[Row]) -> None:
    """Rows longer than windows, where there are such; of several lengths, where layers pad; and none sees another."""
    base = make(ALL[name]())
    rows = train_rows[:4]
    expected = label_losses(base, collate(rows)).tolist()
    assert row_losses(base, rows) == pytest.approx(expected, rel=1e-5)
    tokens, trained = rows[0]
    leaked = row_losses(base, [((tokens + 1) % 256, trained), *rows[1:]])
    assert leaked[1:] == pytest.approx(expected[1:], rel=1e-6)
    assert leaked[0] != pytest.approx(expected[0], rel=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_leak_is_refused(name: str) -> None:
    """In words; and the model is as it was."""
    config, reason = REFUSED[name]
    base = make(config())
    before = dict(base.config.to_dict()), base.config._attn_implementation
    with pytest.raises(Unpackable, match=reason):  # noqa: PT012  # either of the two may refuse
        check_packable(base, [])
        with packed(base, torch.float32):
            pass
    assert (dict(base.config.to_dict()), base.config._attn_implementation) == before
    assert not any("forward" in vars(part) for part in base.modules())


class Routed(torch.nn.Module):
    """Experts that are linear layers, as models with code of their own may have them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        first = tokens[..., 0] > 0
        output = torch.empty_like(tokens)
        for chosen, expert in zip((first, ~first), self.experts, strict=True):
            output[chosen] = expert(tokens[chosen])
        return output


def test_experts_are_the_bases_own(train_rows: list[Row], make_recipe: Callable[..., Recipe]) -> None:
    """Which are given a changing number of rows; an adapter on one is for the other trainer."""
    base = make(PACKABLE["llama"]())
    base.model.layers[0].mlp = Routed().requires_grad_(False)
    expected = label_losses(base, collate(train_rows[:4])).tolist()
    assert row_losses(base, train_rows[:4]) == pytest.approx(expected, rel=1e-5)
    check_packable(base, [make_recipe(target_modules="q_proj,up_proj")])
    with pytest.raises(Unpackable, match=r"adapter on an expert \(`model.layers.0.mlp.experts.1`\)"):
        check_packable(base, [make_recipe(target_modules="q_proj,experts.1")])


def test_a_model_that_only_pretends_to_attend_apart_is_refused() -> None:
    """One whose layers mix neighbouring tokens beside the attention: only the check of the losses can tell."""
    base = make(PACKABLE["llama"]())
    norm = base.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda _, __, output: output + 0.1 * output.roll(1, 1))
    with pytest.raises(Unpackable, match="end to end"), packed(base, torch.float32):
        pass


def test_one_token_that_rounding_moves_far_is_no_leak() -> None:
    """In bfloat16, as SmolLM2's second one; a short sequence of which most tokens are off is one."""
    logits = torch.linspace(-30, 30, 31 * 50).view(31, 50)
    once, second = logits.clone(), logits.clone()
    once[1] += 9
    second[18:25] += 2
    for other, low_fits in ((once, True), (second, False), (logits + 1, True)):
        assert _each_close(other, logits, (18, 13), torch.bfloat16) == low_fits
        assert not _each_close(other, logits, (18, 13), torch.float32)
    assert not _each_close(logits[:30], logits, (18, 13), torch.bfloat16)


def test_a_gradient_that_is_not_the_slope_of_the_loss_is_refused() -> None:
    """Of a layer whose own backward pass is wrong."""
    base = make(PACKABLE["llama"]())

    def doubled(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if output.requires_grad:
            output.register_hook(lambda gradient: 2 * gradient)
        return output

    base.model.norm.register_forward_hook(doubled)
    with pytest.raises(Unpackable, match="not the slope"), packed(base, torch.float32):
        pass


@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_what_cannot_be_differentiated_is_refused(low: torch.dtype) -> None:
    """Although its losses can be had, and a validation would go well."""
    base = make(PACKABLE["llama"]())
    base.model.norm.register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(Unpackable, match="cannot be run"), packed(base, low):
        pass


def test_one_pack_at_a_time() -> None:
    """A second one over the same base is refused, and leaves the first alone."""
    base = make(PACKABLE["llama"]())
    with packed(base, torch.float32) as first:
        with pytest.raises(Unpackable, match="another pack"), packed(base, torch.float32):
            pass
        assert len(first.names) == 14
        assert sum("forward" in vars(part) for part in base.modules() if is_linear(part)) == 14


def test_layers_that_read_the_same_are_computed_together() -> None:
    """Query, key and value, and gate and up; the head belongs to none."""
    with packed(make(PACKABLE["llama"]()), torch.bfloat16) as pack:
        groups = [[part.name.rpartition(".")[2] for part in group.parts] for group in pack.groups]
    assert groups == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]] * 2


def test_a_head_with_a_softcap_is_the_models_own() -> None:
    """Where the model does something to its logits, its own way is taken, though small logits hardly show it."""
    heads = {}
    for name in ("llama", "gemma2", "granite", "gpt-neox"):
        with packed(make(PACKABLE[name]()), torch.float32) as pack:
            heads[name] = pack.head is not None
    assert heads == {"llama": True, "gemma2": False, "granite": False, "gpt-neox": True}


def test_a_base_in_bfloat16(train_rows: list[Row]) -> None:
    """Its losses are near those of the float32 model that it rounds."""
    rows = train_rows[:4]
    exact = row_losses(make(PACKABLE["llama"]()), rows)
    assert row_losses(make(PACKABLE["llama"](), torch.bfloat16), rows) == pytest.approx(exact, rel=0.02)


def test_a_pass() -> None:
    """Positions begin anew, first tokens are no labels, shares and spans are those of the portions."""
    rows = [(np.arange(n, dtype=np.int32), np.ones(n, dtype=np.bool_)) for n in (3, 1, 2)]
    batch = lay_out([Portion(None, rows[:1], 0.5), Portion(None, rows[1:], 0.25, draw=7)], CPU)
    assert batch.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.before.tolist() == [0, 1, 4]
    assert batch.labels.tolist() == [1, 2, 1]
    assert batch.shares.tolist() == [0.5, 0.5, 0.25]
    assert (batch.counts, batch.shared) == ((2, 0, 1), (2, 1))
    assert [(span.start, span.stop, span.draw) for span in batch.spans] == [(0, 3, None), (3, 6, 7)]


def test_a_filled_pass(train_rows: list[Row]) -> None:
    """Sequences without labels fill portions up to a multiple, and change no loss."""
    portions = [Portion(None, train_rows[:3]), Portion(None, train_rows[3:5])]
    plain, filled = lay_out(portions, CPU), lay_out(portions, CPU, 8)
    assert [(span.stop - span.start) % 8 for span in filled.spans] == [0, 0]
    assert (filled.counts, filled.shared) == (plain.counts, plain.shared)
    with packed(make(PACKABLE["llama"]()), torch.float32) as pack:
        losses = [[total for total, _ in pack.row_losses(batch)] for batch in (plain, filled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_portions_and_passes_keep_to_the_limit() -> None:
    """In order; a row above the limit is alone."""
    assert in_portions([5, 6, 7, 8, 9], [4, 4, 9, 1, 1], 2, 8) == [[5, 6], [7], [8, 9]]
    assert in_portions([5, 6, 7], [1, 1, 1], 2, 8) == [[5, 6], [7]]
    row = np.arange(4, dtype=np.int32), np.ones(4, dtype=np.bool_)
    portions = [Portion(None, [row] * n) for n in (1, 1, 3, 1)]
    assert gathered(portions, 9) == [portions[:2], portions[2:3], portions[3:]]


def test_rows_that_would_change_the_positions_of_others_are_alone() -> None:
    """In their portion, and in their pass."""
    assert in_portions([5, 6, 7, 8], [4, 9, 4, 4], 4, 99, alike=8) == [[5], [6], [7, 8]]
    rows = [(np.arange(n, dtype=np.int32), np.ones(n, dtype=np.bool_)) for n in (4, 9)]
    short, long = (Portion(None, [row]) for row in rows)
    assert gathered([short, short, long, long, short], 99, alike=8) == [[short, short], [long], [long], [short]]


def test_portions_where_layers_pad() -> None:
    """Rows of the longest's length have no more than twice the limit; a row alone may have more."""
    assert in_portions([5, 6, 7, 8, 9], [2, 2, 2, 9, 1], 9, 16, padded=True) == [[5, 6, 7], [8, 9]]
    row = np.ones(9, dtype=np.int32), np.ones(9, dtype=np.bool_)
    long, short = Portion(None, [row]), Portion(None, [(row[0][:1], row[1][:1])])
    assert gathered([short, long, short, short], 16, padded=True) == [[short, long, short], [short]]
    assert gathered([long] * 2, 4, padded=True) == [[long], [long]]
