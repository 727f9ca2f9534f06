"""The pilot: a few batches of the study's own, and nothing left behind."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from meshtune.training.loss import Row
from meshtune.training.memory import pilot
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Diverged, Step, Trained
from meshtune.training.trainer import train


def test_a_tiny_model(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """Speeds, the largest batch of an epoch, and the base as it was."""
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    found = pilot.measure(base, train_rows, validation_rows, make_recipe(), threads=1)
    assert found.training > 0
    assert found.validation > 0
    assert found.seconds_per_step > 0
    assert (found.largest.rows, found.largest.length) == (4, max(len(tokens) for tokens, _ in train_rows))
    assert found.peak is None or found.peak > 1 << 20
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert not base.training


@pytest.mark.parametrize("members", [1, 3])
def test_packs(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe], members: int
) -> None:
    """The tokens of all members count, in all of their steps but the first, and in their validations."""
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    found = pilot.measure(base, train_rows, validation_rows, make_recipe(), threads=1, pack=members)
    assert found.pack == members
    batches = pilot._batches(train_rows, make_recipe())[1:]
    tokens = sum(len(train_rows[row][0]) for batch in batches for row in batch)
    assert found.training * found.seconds_per_step * len(batches) == pytest.approx(members * tokens)
    assert found.validation > 0
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_what_cannot_be_packed_and_a_pack_that_diverges(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(Unpackable, match="DoRA"):
        pilot.measure(base, train_rows, validation_rows, make_recipe({"use_dora": True}), pack=2)
    with pytest.raises(Diverged):
        pilot.measure(base, train_rows, validation_rows, make_recipe(learning_rate=1e30), pack=2)


def test_which_batches_are_trained(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """The largest first, whatever order the trainer makes of a set; one epoch, without accumulation."""
    seen: list[tuple[Recipe, int]] = []

    def watched(base: Any, rows: Any, validation: Any, recipe: Recipe, *, at: str) -> Iterator[Step | Trained]:
        seen.append((recipe, len(rows)))
        first = [rows[number] for number in pilot.epoch_order(len(rows), recipe.seed, 0)[: recipe.batch_size].tolist()]
        assert max(len(tokens) for tokens, _ in first) == max(len(tokens) for tokens, _ in train_rows)
        yield from train(base, rows, validation, recipe, at="last")

    pilot.measure(base, train_rows, validation_rows, make_recipe(seed=3), train=watched)
    [(recipe, rows)] = seen
    assert (recipe.epochs, recipe.gradient_accumulation, recipe.batch_size, rows) == (1, 1, 4, 12)


def test_fewer_rows_than_a_batch(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    found = pilot.measure(base, train_rows[:3], validation_rows[:1], make_recipe({"batch_size": 64}))
    assert found.largest.rows == 3


def test_what_training_raises_comes_through(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: Callable[..., Recipe]
) -> None:
    """And the base is as it was."""
    with pytest.raises(Diverged):
        pilot.measure(base, train_rows, validation_rows, make_recipe(learning_rate=1e30))
    assert not any(weight.requires_grad for weight in base.parameters())
    assert np.isfinite(base(input_ids=torch.tensor([[1, 2, 3]])).logits.detach().numpy()).all()
