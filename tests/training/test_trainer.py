"""The `transformers` trainer: against a plain loop, repeated, cancelled, and what it leaves behind."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from meshtune.data.store import epoch_order
from meshtune.errors import InputError
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import adapted, attached, save_adapter, tensors
from meshtune.training.loss import Row, mean_loss, row_losses
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Diverged, Step, Trained
from meshtune.training.trainer import train

MakeRecipe = Callable[..., Recipe]
Weights = dict[str, torch.Tensor]


def run(
    base: Any, rows: list[Row], validation: list[Row], recipe: Recipe, at: Any = "best"
) -> tuple[list[Step], Trained]:
    """A whole training."""
    *steps, trained = train(base, rows, validation, recipe, at=at)
    assert isinstance(trained, Trained)
    return [step for step in steps if isinstance(step, Step)], trained


def losses(steps: list[Step]) -> list[tuple[float | None, float | None]]:
    """What the steps told."""
    return [(step.training_loss, step.validation_loss) for step in steps if step.training_loss is not None]


def same(one: Weights, other: Weights) -> bool:
    """Bitwise."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_loop(base: Any, rows: list[Row], recipe: Recipe) -> tuple[list[float], Weights]:
    """PEFT, AdamW and a loop over rows, one at a time: losses by step and the adapter's weights."""
    told: list[float] = []
    with adapted(base, lora_config(base, recipe), recipe.seed) as model:
        model.train()
        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trainable, recipe.learning_rate, weight_decay=recipe.weight_decay)
        size = recipe.batch_size * recipe.gradient_accumulation
        steps = recipe.epochs * math.ceil(len(rows) / size)
        warmup = math.ceil(recipe.warmup_ratio * steps)
        if recipe.lr_scheduler == "wsd":
            decay = math.ceil(0.2 * steps)
            schedule = LambdaLR(optimizer, lambda done: min(done / warmup, 1, (steps - done) / decay))
        else:
            schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
        for epoch in range(recipe.epochs):
            order = epoch_order(len(rows), recipe.seed, epoch)
            for start in range(0, len(rows), size):
                batch = [rows[index] for index in order[start : start + size]]
                labels = sum(int(trained[1:].sum()) for _, trained in batch)
                total = 0.0
                for tokens, trained in batch:
                    ids = torch.tensor(tokens, dtype=torch.long)
                    logits = model(input_ids=ids[None]).logits[0, :-1]
                    loss = cross_entropy(logits, ids[1:], reduction="none")[torch.tensor(trained[1:])].sum() / labels
                    loss.backward()
                    total += loss.item()
                torch.nn.utils.clip_grad_norm_(trainable, recipe.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                told.append(total)
        return told, tensors(model)


@pytest.mark.parametrize("scheduler", ["cosine", "wsd"])
def test_equals_a_plain_loop(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, scheduler: str
) -> None:
    """Order of rows, weighting over micro-batches, schedule, warm-up, clipping, decay: all as written there."""
    given = {"max_grad_norm": 0.5, "warmup_ratio": 0.3, "lr_scheduler": scheduler}
    recipe = make_recipe(given, weight_decay=0.1, epochs=3)
    expected, weights = plain_loop(base, train_rows, recipe)
    steps, trained = run(base, train_rows, validation_rows, recipe, at="last")
    told = [step.training_loss for step in steps if step.training_loss is not None and step.validation_loss is None]
    assert told == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.2  # something was learnt
    for name, weight in trained.weights.items():
        torch.testing.assert_close(weight, weights[name], atol=1e-4, rtol=0)


def test_the_same_seed_repeats_bitwise_whatever_ran_before(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """And another seed differs."""
    recipe = make_recipe(dropout=0.1)
    steps, trained = run(base, train_rows, validation_rows, recipe)
    run(base, train_rows[:7], validation_rows, make_recipe({"epochs": 1}, rank=8, dropout=0.3, seed=5))
    torch.manual_seed(99)
    again, repeated = run(base, train_rows, validation_rows, recipe)
    assert losses(steps) == losses(again)
    assert same(dict(trained.weights), dict(repeated.weights))
    other, _ = run(base, train_rows, validation_rows, make_recipe(dropout=0.1, seed=1))
    assert losses(other) != losses(steps)


def test_the_base_is_as_it_was(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """Weights bitwise, modules, mode and flags; also after a training that was cancelled and one that failed."""
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    modules = [(name, type(part)) for name, part in base.named_modules()]
    run(base, train_rows, validation_rows, make_recipe({"gradient_checkpointing": True}))
    steps = train(base, train_rows, validation_rows, make_recipe(epochs=1000), at="last")
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    with pytest.raises(Diverged):
        run(base, train_rows, validation_rows, make_recipe(learning_rate=1e30))
    assert same(before, base.state_dict())
    assert [(name, type(part)) for name, part in base.named_modules()] == modules
    assert not base.training
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")  # Transformers has renamed it
    assert not getattr(base, next(name for name in names if hasattr(base, name)))
    assert not any(weight.requires_grad for weight in base.parameters())


def test_best_keeps_the_epoch_of_the_lowest_loss_and_last_the_last(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """At a rate that overfits, the two differ; the weights that come back have the loss that is told."""
    recipe = make_recipe({"lr_scheduler": "constant"}, learning_rate=0.05, epochs=6)
    told = {}
    for at in ("best", "last"):
        steps, trained = run(base, train_rows, validation_rows, recipe, at)
        epochs = [step.validation_loss for step in steps if step.validation_loss is not None]
        assert len(epochs) == 6
        assert trained.loss == (min(epochs) if at == "best" else epochs[-1])
        told[at] = trained.loss
        save_adapter(tmp_path / at, trained.weights, trained.config, base.name_or_path)
        with attached(base, tmp_path / at):
            assert mean_loss(row_losses(base, validation_rows)) == pytest.approx(trained.loss, abs=1e-6)
    assert told["best"] < told["last"]


def test_epoch_losses_are_weighted_by_tokens(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """At a rate of nearly nothing the mean over an epoch is the loss of the untrained rows."""
    steps, _ = run(base, train_rows, validation_rows, make_recipe(learning_rate=1e-12))
    told = [step.training_loss for step in steps if step.validation_loss is not None]
    assert told == pytest.approx([mean_loss(row_losses(base, train_rows))] * 2, abs=1e-5)
    assert steps[-1].tokens == 2 * sum(len(tokens) for tokens, _ in train_rows)


def test_gradient_checkpointing_changes_no_loss(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """It only saves memory."""
    plain, _ = run(base, train_rows, validation_rows, make_recipe())
    saved, _ = run(base, train_rows, validation_rows, make_recipe({"gradient_checkpointing": True}))
    assert losses(saved) == losses(plain)


def test_validation_is_float32_whatever_the_precision_of_training(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """An adapter that stays at zero has the untuned loss to the last bit, though it was trained in bfloat16."""
    untuned = mean_loss(row_losses(base, validation_rows))
    _, trained = run(base, train_rows, validation_rows, make_recipe({"precision": "bfloat16"}, learning_rate=1e-30))
    assert trained.loss == pytest.approx(untuned, abs=1e-7)
    steps, _ = run(base, train_rows, validation_rows, make_recipe({"precision": "bfloat16"}))
    exact, _ = run(base, train_rows, validation_rows, make_recipe())
    assert losses(steps) != losses(exact)  # it was another precision
    assert steps[-1].validation_loss == pytest.approx(exact[-1].validation_loss, abs=0.02)


def test_target_modules(base: Any, make_recipe: MakeRecipe) -> None:
    """Names, names with their path, and names that do not exist, all of them at once with the nearest."""
    assert lora_config(base, make_recipe(target_modules="q_proj, layers.0.mlp.up_proj")).target_modules == {
        "q_proj",
        "layers.0.mlp.up_proj",
    }
    with pytest.raises(InputError) as caught:
        lora_config(base, make_recipe({"target_modules": ("q_prj", "v_proj", "query")}))
    assert len(caught.value.faults) == 2
    assert "`q_prj`" in str(caught.value)
    assert "Did you mean `q_proj`?" in str(caught.value)


def test_rslora_scales_by_the_root_of_the_rank(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe
) -> None:
    """alpha / sqrt(rank): rank 4 with alpha 4 is the plain scale of alpha 8."""
    plain, _ = run(base, train_rows, validation_rows, make_recipe(alpha=8))
    rooted, _ = run(base, train_rows, validation_rows, make_recipe(alpha=4, use_rslora=True))
    assert losses(rooted) == losses(plain)
