"""A pack that is measured at rungs: what is told there, and that nothing else is changed by it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshtune.testing.packs import losses, mean_difference, of
from meshtune.testing.trainers import rungs_at
from meshtune.training.loss import Row
from meshtune.training.pack_run import PackEvent
from meshtune.training.packed_trainer import train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Suspended, Trained

MakeRecipe = Callable[..., Recipe]
Sides = tuple[list[Row], list[Row]]


@pytest.fixture
def sides(train_rows: list[Row], validation_rows: list[Row]) -> Sides:
    """A few rows."""
    return train_rows[:10], validation_rows[:6]


@pytest.fixture
def recipes(make_recipe: MakeRecipe) -> list[Recipe]:
    """One that steps every second pass, and one that steps in each."""
    return [make_recipe(dropout=0.2), make_recipe({"gradient_accumulation": 1}, rank=8, dropout=0.1)]


def told_at(events: Sequence[object]) -> list[tuple[int | None, float | None]]:
    """Each rung, and what was told there."""
    return [(event.rung, event.rung_loss) for event in events if isinstance(event, Step) and event.rung is not None]


def test_each_tells_its_rungs_and_trains_as_without(base: Any, sides: Sides, recipes: list[Recipe]) -> None:
    """Bitwise; a rung comes after the step that reached it, and those that one step passed have one loss."""
    rungs = rungs_at(sides, 2, 0.01, 0.02, 0.5, 0.7)  # the first two lie in one step, the third is an epoch's end
    told = list(train_pack(base, *sides, recipes, at="best", rungs=rungs))
    plain = list(train_pack(base, *sides, recipes, at="best"))
    for number in range(len(recipes)):
        mine = of(told, number)
        assert losses(mine) == losses(of(plain, number))
        assert mean_difference(mine[-1], of(plain, number)[-1]) == 0
        found = told_at(mine)
        assert [rung for rung, _ in found] == list(rungs.tokens)
        assert found[0][1] == found[1][1]
        assert len({loss for _, loss in found}) == 3
        before = 0
        for event in mine:
            if isinstance(event, Step) and event.training_loss is not None and event.validation_loss is None:
                reached = [rung for rung in rungs.tokens if before < rung <= event.tokens]
                here = [other.rung for other in mine if isinstance(other, Step) and other.tokens == event.tokens]
                assert [rung for rung in here if rung is not None] == reached
                before = event.tokens


def test_a_rungs_loss_is_that_of_an_epochs_end(base: Any, sides: Sides, recipes: list[Recipe]) -> None:
    """Where all validation rows are measured at it, and the rung is told first."""
    rungs = Rungs(rungs_at(sides, 2, 0.5).tokens, sides[1])
    for number in range(len(recipes)):
        told = of(list(train_pack(base, *sides, recipes, at="best", rungs=rungs)), number)
        at = next(place for place, event in enumerate(told) if isinstance(event, Step) and event.rung is not None)
        end = next(event for event in told[at:] if isinstance(event, Step) and event.validation_loss is not None)
        [(rung, loss)] = told_at(told)
        assert rung == rungs.tokens[0]
        assert loss == pytest.approx(end.validation_loss, abs=1e-6)


def cut(base: Any, given: Any, rungs: Rungs, folder: Path, looks: int) -> list[PackEvent]:
    """What a pack tells that is asked to stop at the `looks`-th look."""
    told: list[PackEvent] = []
    seen = 0

    def asked() -> bool:
        nonlocal seen
        seen += 1
        return seen >= looks

    try:
        for event in train_pack(base, *given, at="best", rungs=rungs, checkpoint=Checkpoint(folder, None, asked)):
            told.append(event)
    except Suspended:
        pass
    return told


def test_cut_at_every_look(base: Any, sides: Sides, recipes: list[Recipe], tmp_path: Path) -> None:
    """Before, in and after the measuring at a rung: each is told, with the same loss."""
    given = *sides, recipes
    rungs = rungs_at(sides, 2, 0.2, 0.5, 0.8)
    expected = list(train_pack(base, *given, at="best", rungs=rungs))
    looks = 1
    while len(cut(base, given, rungs, tmp_path / str(looks), looks)) < len(expected):
        never = Checkpoint(tmp_path / str(looks), None, lambda: False)
        after = list(train_pack(base, *given, at="best", rungs=rungs, checkpoint=never))
        for number in range(len(recipes)):
            wanted, found = of(expected, number), of(after, number)
            assert told_at(found) == told_at(wanted)
            assert losses(found)[-1] == losses(wanted)[-1]
            assert mean_difference(found[-1], wanted[-1]) == 0
            epochs = [e.validation_loss for e in found if isinstance(e, Step) and e.validation_loss is not None]
            assert len(epochs) == recipes[number].epochs
        looks += 1
    assert looks > 10


def test_a_loss_that_is_not_finite_at_a_rung(base: Any, sides: Sides, recipes: list[Recipe]) -> None:
    """That one alone has diverged."""
    wild = replace(recipes[1], learning_rate=1e30, warmup_ratio=0.0)
    told = list(train_pack(base, *sides, [recipes[0], wild], at="best", rungs=rungs_at(sides, 2, 0.05)))
    assert isinstance(of(told, 0)[-1], Trained)
    assert isinstance(of(told, 1)[-1], Diverged)
    assert "rungs' rows after step 1" in str(of(told, 1)[-1])
