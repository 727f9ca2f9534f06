"""A training that is cut anywhere and goes on in a fresh one: the same losses, the same adapter, bitwise."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.training import saved_state
from meshtune.training.loss import Row
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Step, Suspended, Trained
from meshtune.training.trainer import train

MakeRecipe = Callable[..., Recipe]
Events = list[Step | Trained]


def cut(base: Any, sides: tuple[list[Row], list[Row]], recipe: Recipe, folder: Path, looks: int) -> Events:
    """What a training tells that is asked to stop at the `looks`-th look; empty where it ended before that."""
    told: Events = []
    seen = 0

    def asked() -> bool:
        nonlocal seen
        seen += 1
        return seen >= looks

    torch.manual_seed(looks)  # nothing may depend on what was before
    try:
        told += train(base, *sides, recipe, at="best", checkpoint=Checkpoint(folder, None, asked))
    except Suspended:
        return told
    return told


def losses(events: Events) -> list[tuple[int, float | None, float | None]]:
    """Every loss that was told, with its step."""
    steps = [event for event in events if isinstance(event, Step)]
    return [(s.step, s.training_loss, s.validation_loss) for s in steps if s.training_loss is not None]


def same(one: Any, other: Any) -> bool:
    """Two `Trained`, bitwise."""
    assert isinstance(one, Trained)
    assert isinstance(other, Trained)
    assert one.weights.keys() == other.weights.keys()
    equal = all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    return equal and one.loss == other.loss and one.config.to_dict() == other.config.to_dict()


@pytest.mark.slow
def test_cut_at_every_look(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """In the middle of an epoch, at its end, in and after its validation; with dropout and accumulated batches."""
    sides = train_rows[:13], validation_rows[:4]
    recipe = make_recipe(dropout=0.2, weight_decay=0.1)
    whole = list(train(base, *sides, recipe, at="best"))
    expected = losses(whole)
    history = [item for item in expected if item[0] == 1 or item[2] is not None]
    lengths = set()
    looks = 1
    while not isinstance(cut(base, sides, recipe, tmp_path / str(looks), looks)[-1], Trained):
        checkpoint = Checkpoint(tmp_path / str(looks), None, lambda: False)
        after = list(train(base, *sides, recipe, at="best", checkpoint=checkpoint))
        told = losses(after)
        assert [item for item in told if item in history] == history  # each once
        assert told == [item for item in expected if item in told]
        assert same(after[-1], whole[-1])
        lengths.add(len(told))
        looks += 1
    assert looks > 6
    assert max(lengths) == len(expected)
    assert min(lengths) == len(history)


def test_saved_by_the_clock_and_killed(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Nobody asks it to stop: it ends, as at a kill, somewhere after a save."""
    sides, recipe = (train_rows, validation_rows), make_recipe(dropout=0.2)
    whole = list(train(base, *sides, recipe, at="last"))
    steps = train(base, *sides, recipe, at="last", checkpoint=Checkpoint(tmp_path, 0.0, lambda: False))
    while not (tmp_path / saved_state.FILE).exists():
        next(steps)
    steps.close()
    after = list(train(base, *sides, recipe, at="last", checkpoint=Checkpoint(tmp_path, 0.0, lambda: False)))
    assert isinstance(after[0], Step)
    assert after[0].earlier > 0
    assert losses(after)[-1] == losses(whole)[-1]
    assert same(after[-1], whole[-1])


@pytest.mark.parametrize(
    "changed",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora", "use_dora": True},
        {"optimizer": "muon", "neftune_alpha": 5.0},
        {"optimizer": "adamw_8bit", "lora_plus_ratio": 4.0, "rank": 64},  # whose matrices have moments of eight bits
    ],
)
def test_every_kind_of_adapter_and_optimizer(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    changed: dict[str, Any],
) -> None:
    """In the middle of the second epoch."""
    sides = train_rows, validation_rows
    recipe = make_recipe(dropout=0.1, **changed)
    whole = list(train(base, *sides, recipe, at="best"))
    cut(base, sides, recipe, tmp_path, 6)
    after = list(train(base, *sides, recipe, at="best", checkpoint=Checkpoint(tmp_path, None, lambda: False)))
    assert 0 < len(losses(after)) < len(losses(whole))
    assert losses(after)[-1] == losses(whole)[-1]
    assert same(after[-1], whole[-1])


def test_seconds_add_up(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Every step after a resume tells how long the training had taken before."""
    sides = train_rows, validation_rows
    earlier = 0.0
    for looks in (1, 2, 2):
        told = [event for event in cut(base, sides, make_recipe(), tmp_path, looks) if isinstance(event, Step)]
        assert {event.earlier for event in told} == {told[0].earlier}
        assert looks == 1 or told[0].earlier > earlier
        earlier = told[0].earlier


@pytest.mark.parametrize("how", ["cut", "one bit", "another recipe", "other rows", "rubbish"])
def test_a_checkpoint_that_does_not_fit_is_left_alone(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    how: str,
) -> None:
    """With a line in the log; the training is the one without a checkpoint."""
    recipe, rows, validation = make_recipe(epochs=1), train_rows[:9], validation_rows[:4]
    cut(base, (rows, validation), recipe, tmp_path, 1)
    path = tmp_path / saved_state.FILE
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "one bit":  # in the middle of a tensor: torch itself reads it as it is
        with zipfile.ZipFile(path) as parts:
            tensors = [part for part in parts.infolist() if "/data/" in part.filename]
        largest = max(tensors, key=lambda part: part.file_size)
        content = bytearray(path.read_bytes())
        head = content[largest.header_offset :][26:30]  # lengths of what stands before the tensor
        begin = largest.header_offset + 30 + int.from_bytes(head[:2], "little") + int.from_bytes(head[2:], "little")
        content[begin + largest.file_size // 2] ^= 0x40
        path.write_bytes(content)
        torch.load(path, weights_only=True)
    elif how == "rubbish":
        path.write_bytes(b"no checkpoint")
    elif how == "another recipe":
        recipe = replace(recipe, seed=1)
    else:
        rows = [rows[1], rows[0], *rows[2:]]
    checkpoint = Checkpoint(tmp_path, None, lambda: False)
    after = list(train(base, rows, validation, recipe, at="best", checkpoint=checkpoint))
    fresh = list(train(base, rows, validation, recipe, at="best"))
    assert losses(after) == losses(fresh)
    assert same(after[-1], fresh[-1])
    assert "the training starts over" in capfd.readouterr().err


def test_a_checkpoint_that_cannot_be_written_costs_no_training(
    base: Any,
    train_rows: list[Row],
    validation_rows: list[Row],
    make_recipe: MakeRecipe,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A full disk, here a file where the folder should be."""
    (tmp_path / "file").write_text("")
    checkpoint = Checkpoint(tmp_path / "file", 0.0, lambda: False)
    *_, last = train(base, train_rows, validation_rows, make_recipe(epochs=1), at="last", checkpoint=checkpoint)
    assert isinstance(last, Trained)
    assert "cannot be written" in capfd.readouterr().err
