"""Optimizers of an adapter: against PEFT's, which trains with the same rates."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from meshtune.errors import InputError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted
from meshtune.training.optimizers import check_optimizers, is_usual, optimizer_of
from meshtune.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("dora", [False, True])
def test_rates_are_those_of_peft(base: Any, make_recipe: MakeRecipe, dora: bool) -> None:
    """For each weight, DoRA's magnitudes included."""
    recipe = make_recipe({"use_dora": dora}, lora_plus_ratio=16, weight_decay=0.1)
    with adapted(base, lora_config(base, recipe), recipe.seed) as model:
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        ours = optimizer_of(named, recipe)
        theirs = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=recipe.learning_rate, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
        )
        rates, expected = (
            {id(x): group["lr"] for group in each.param_groups for x in group["params"]} for each in (ours, theirs)
        )
        assert all(rates[id(weight)] == expected[id(weight)] for _, weight in named)
        assert sorted({*rates.values()}) == pytest.approx([1e-2, 0.16])


def test_what_is_usual(make_recipe: MakeRecipe) -> None:
    assert is_usual(make_recipe())
    assert not is_usual(make_recipe(lora_plus_ratio=2))
    assert not is_usual(make_recipe(optimizer="muon"))


def test_muon_steps_as_torch_has_it(make_recipe: MakeRecipe) -> None:
    """But for the bfloat16 that it computes in."""
    chance = torch.Generator().manual_seed(0)
    shapes = {"lora_A": (4, 24), "x.lora_A": (4, 24), "lora_B": (32, 4)}
    starts = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    ours, theirs = ({name: torch.nn.Parameter(x.clone()) for name, x in starts.items()} for _ in range(2))
    steps = (
        optimizer_of(ours.items(), make_recipe(optimizer="muon", weight_decay=0.1)),
        torch.optim.Muon(theirs.values(), 1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        gradients = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
        for side, optimizer in zip((ours, theirs), steps, strict=True):
            for name, weight in side.items():
                weight.grad = gradients[name].clone()
            optimizer.step()
    for name, start in starts.items():
        moved = theirs[name].detach() - start
        torch.testing.assert_close(ours[name].detach() - start, moved, atol=0.03 * float(moved.abs().max()), rtol=0)


def test_muon_takes_no_vectors(make_recipe: MakeRecipe) -> None:
    with pytest.raises(InputError, match="takes matrices only"):
        make_recipe({"use_dora": True}, optimizer="muon")
    with pytest.raises(InputError, match=r"training.optimizer: .*takes matrices only"):
        check_optimizers(("adamw", "muon"), (False, True), here=True)
    check_optimizers(("adamw_8bit", "muon"), (False,), here=True)
