"""A pack that is cut anywhere and goes on in a fresh one: the same losses, the same adapters, bitwise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.testing.packs import losses, mean_difference, of
from meshtune.training import saved_state, trainer
from meshtune.training.loss import Row
from meshtune.training.memory.formula import of_state
from meshtune.training.memory.shape import measure
from meshtune.training.packed.trainer import PackEvent, train, train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, Step, Suspended, Trained

MakeRecipe = Callable[..., Recipe]
Sides = tuple[list[Row], list[Row]]


def cut(base: Any, sides: Sides, recipes: list[Recipe], folder: Path, looks: int) -> list[PackEvent]:
    """What a pack tells that is asked to stop at the `looks`-th look."""
    told: list[PackEvent] = []
    seen = 0

    def asked() -> bool:
        nonlocal seen
        seen += 1
        return seen >= looks

    torch.manual_seed(looks)  # nothing may depend on what was before
    try:
        for event in train_pack(base, *sides, recipes, at="best", checkpoint=Checkpoint(folder, None, asked)):
            told.append(event)
    except Suspended:
        pass
    return told


def whole(base: Any, sides: Sides, recipes: list[Recipe], folder: Path) -> list[PackEvent]:
    """What a pack tells that is not asked to stop."""
    checkpoint = Checkpoint(folder, None, lambda: False)
    return list(train_pack(base, *sides, recipes, at="best", checkpoint=checkpoint))


def members(make_recipe: MakeRecipe) -> list[Recipe]:
    """One that steps every second pass, one that ends early, and one that diverges."""
    return [
        make_recipe(dropout=0.2, weight_decay=0.1),
        make_recipe({"gradient_accumulation": 1, "epochs": 1}, rank=8, dropout=0.1),
        make_recipe({"gradient_accumulation": 1, "epochs": 9, "lr_scheduler": "constant"}, learning_rate=1e30),
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adamw_8bit"])
@pytest.mark.parametrize("validated", [False, True])
def test_a_state_is_as_large_as_predicted(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    optimizer: str,
    validated: bool,
) -> None:
    """But for what does not grow with the adapter: some hundred bytes a tensor."""
    recipes = [
        make_recipe({"gradient_accumulation": 1, "epochs": 4}, optimizer=optimizer, rank=rank) for rank in (128, 256)
    ]
    found = []
    for recipe in recipes:
        folder = tmp_path / str(recipe.rank)
        cut(base, (train_rows[:9], validation_rows[:4]), [recipe], folder, 9 if validated else 2)
        values = torch.load(folder / saved_state.FILE, weights_only=True)
        assert (values["members"][0]["best"] is not None) == validated
        found.append((folder / saved_state.FILE).stat().st_size)
    sizes = [of_state(measure(base), recipe, validated=validated) for recipe in recipes]
    assert found[1] - found[0] == pytest.approx(sizes[1] - sizes[0], rel=0.06)
    assert sizes[1] < found[1] < 1.1 * sizes[1] + 100_000


def test_cut_at_every_look(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Inside a step, an epoch, a validation; after some have ended, whose ends are then told again."""
    sides = train_rows[:9], validation_rows[:4]
    recipes = members(make_recipe)
    expected = whole(base, sides, recipes, tmp_path / "none")
    assert [type(of(expected, number)[-1]) for number in range(3)] == [Trained, Trained, Diverged]
    looks, ended = 1, set()
    while len(told := cut(base, sides, recipes, tmp_path / str(looks), looks)) < len(expected):
        after = whole(base, sides, recipes, tmp_path / str(looks))
        for number in range(3):
            wanted, found = of(expected, number), of(after, number)
            assert set(losses(found)) <= set(losses(wanted))
            if isinstance(wanted[-1], Diverged):
                assert str(found[-1]) == str(wanted[-1])
            else:
                assert losses(found)[-1] == losses(wanted)[-1]
                assert mean_difference(found[-1], wanted[-1]) == 0
                epochs = [e.validation_loss for e in found if isinstance(e, Step) and e.validation_loss is not None]
                assert len(epochs) == recipes[number].epochs  # each once
        ended |= {number for number, event in told if not isinstance(event, Step)}
        looks += 1
    assert looks > 6
    assert ended == {1, 2}  # some cuts were made after they had ended


def other_steps(make_recipe: MakeRecipe) -> list[Recipe]:
    """Muon with noise on the embeddings, and AdamW with moments of eight bits and two rates."""
    return [
        make_recipe(optimizer="muon", neftune_alpha=5.0, dropout=0.1, weight_decay=0.1),
        make_recipe({"epochs": 1}, optimizer="adamw_8bit", lora_plus_ratio=4.0, rank=64),
    ]


@pytest.mark.parametrize("pack", [lambda make: members(make)[:2], other_steps], ids=["adamw", "others"])
def test_saved_by_the_clock_and_killed(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    pack: Callable[[MakeRecipe], list[Recipe]],
) -> None:
    """Nobody asks it to stop: it ends, as at a kill, somewhere after a save."""
    sides, recipes = (train_rows, validation_rows), pack(make_recipe)
    expected = whole(base, sides, recipes, tmp_path / "none")
    events = train_pack(base, *sides, recipes, at="best", checkpoint=Checkpoint(tmp_path, 0.0, lambda: False))
    while not (tmp_path / saved_state.FILE).exists():
        next(events)
    events.close()
    after = whole(base, sides, recipes, tmp_path)
    assert isinstance(after[0][1], Step)
    assert after[0][1].earlier > 0
    for number in range(2):
        assert losses(of(after, number))[-1] == losses(of(expected, number))[-1]
        assert mean_difference(of(after, number)[-1], of(expected, number)[-1]) == 0


def test_what_the_checkpoint_does_not_know_begins_now(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Recipes after those that were saved."""
    sides = train_rows, validation_rows
    recipes = [make_recipe(dropout=0.1), make_recipe(rank=8, dropout=0.2)]
    cut(base, sides, recipes[:1], tmp_path, 3)
    after = whole(base, sides, recipes, tmp_path)
    for number, recipe in enumerate(recipes):
        alone = list(train(base, *sides, recipe, at="best"))
        assert losses(of(after, number))[-1] == pytest.approx(losses(alone)[-1], abs=1e-5)
    assert of(after, 0)[0].earlier > 0  # type: ignore[union-attr]
    assert of(after, 1)[0].earlier == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["another recipe", "another order", "the transformers trainer"])
def test_a_checkpoint_of_another_pack_is_left_alone(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    how: str,
) -> None:
    """With a line in the log; the training is the one without a checkpoint."""
    sides, recipes = (train_rows[:9], validation_rows[:4]), [make_recipe(epochs=1), make_recipe(rank=8, epochs=1)]
    if how == "the transformers trainer":
        steps = trainer.train(base, *sides, recipes[0], at="best", checkpoint=Checkpoint(tmp_path, None, lambda: True))
        with pytest.raises(Suspended):
            list(steps)
    else:
        cut(base, sides, recipes, tmp_path, 1)
    match how:
        case "another recipe":
            recipes[1] = replace(recipes[1], seed=1)
        case "another order":
            recipes.reverse()
    after = whole(base, sides, recipes, tmp_path)
    fresh = whole(base, sides, recipes, tmp_path / "none")
    assert losses([event for _, event in after]) == losses([event for _, event in fresh])
    assert "the training starts over" in capfd.readouterr().err
