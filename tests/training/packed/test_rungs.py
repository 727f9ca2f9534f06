"""A pack that is measured at rungs: what is told there, and that nothing else is changed by it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.testing.packs import losses, mean_difference, of
from meshtune.testing.trainers import rungs_at
from meshtune.training import saved_state, trainer
from meshtune.training.loss import Row
from meshtune.training.packed.changes import Changes, Kept
from meshtune.training.packed.member import Member
from meshtune.training.packed.trainer import PackEvent, train, train_pack
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Suspended, Train, Trained

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


def losses_at(events: Sequence[object]) -> list[float]:
    """What was told at the rungs."""
    return [loss for _, loss in told_at(events) if loss is not None]


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


@pytest.mark.parametrize("trained_by", [train, trainer.train])
def test_with_wsd_the_weights_are_measured_as_they_are(
    base: Any, sides: Sides, make_recipe: MakeRecipe, trained_by: Train
) -> None:
    """On the plateau too: until the decay begins, the losses are those of a constant rate."""
    given = {"batch_size": 5, "gradient_accumulation": 1, "epochs": 4, "warmup_ratio": 0.2}
    eight = [make_recipe(given | {"lr_scheduler": name}, learning_rate=0.02) for name in ("wsd", "constant")]
    rungs = rungs_at(sides, 4, 0.3, 0.5, 0.7, 0.99)
    *before, last = (losses_at(list(trained_by(base, *sides, each, at="last", rungs=rungs))) for each in eight)
    assert before[0][:3] == pytest.approx(last[:3], abs=1e-6)
    assert abs(before[0][3] - last[3]) > 1e-4


def test_a_state_with_a_running_average_goes_on(base: Any, sides: Sides, make_recipe: MakeRecipe) -> None:
    """Earlier versions kept one."""
    one, other = (Member(base, make_recipe(), sides[0], "last", torch.float32, 1024) for _ in range(2))
    one.adapter.weights.data.add_(1.0)
    other.restore(one.snapshot() | {"average": one.adapter.plain(one.adapter.weights.detach())}, 0.0)
    assert torch.equal(other.adapter.weights, one.adapter.weights)


def stopping(base: Any, given: Any, rungs: Rungs, folder: Path, looks: int | None = None) -> list[PackEvent]:
    """What a pack of width two tells whose first member leaves at the second rung, where it is not asked to stop first.

    That one's state goes to `<folder>/kept`, the pack's to `<folder>/pack` at the `looks`-th look.
    """
    told: list[PackEvent] = []
    seen = 0

    def asked() -> bool:
        nonlocal seen
        seen += 1
        return looks is not None and seen >= looks

    checkpoint, changes = Checkpoint(folder / "pack", None, asked), Changes()
    events = train_pack(base, *given, at="best", rungs=rungs, checkpoint=checkpoint, changes=changes, width=2)
    try:
        for number, event in events:
            told.append((number, event))
            if number == 0 and isinstance(event, Step) and event.rung == rungs.tokens[1]:
                changes.keeping.add(0)
            if isinstance(event, Kept) and event.state is not None:
                saved_state.write(folder / "kept", event.made_by, event.state)
    except Suspended:
        pass
    return told


def kept(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state that the first member left, with its weights and moments apart."""
    (member,) = torch.load(folder / "kept" / saved_state.FILE, weights_only=True)["members"]
    moments = member["optimizer"]["state"][0]
    return member["counts"], {"weights": member["weights"], **moments}


@pytest.mark.slow
def test_cut_at_every_look(base: Any, sides: Sides, recipes: list[Recipe], tmp_path: Path) -> None:
    """Before, in and after the measuring at a rung, before and after one left: each is told, with the same loss."""
    recipes = [recipes[1], recipes[0], replace(recipes[1], rank=2, seed=1)]
    sides = sides[0][:6], sides[1][:4]
    given = *sides, recipes
    rungs = rungs_at(sides, 2, 0.2, 0.5, 0.8)  # the second is an epoch's end, which is not validated any more
    expected = stopping(base, given, rungs, tmp_path / "whole")
    counts, tensors = kept(tmp_path / "whole")
    ends = set()
    looks = 1
    while len(told := stopping(base, given, rungs, tmp_path / str(looks), looks)) < len(expected):
        after = stopping(base, given, rungs, tmp_path / str(looks))
        for number in range(len(recipes)):
            wanted, found = of(expected, number), of(after, number)
            assert told_at(found) == told_at(wanted)
            epochs = [e.validation_loss for e in found if isinstance(e, Step) and e.validation_loss is not None]
            assert len(epochs) == (0 if number == 0 else recipes[number].epochs)
            if number == 0:
                assert isinstance(found[-1], Kept)
            else:
                assert losses(found)[-1] == losses(wanted)[-1]
                assert mean_difference(found[-1], wanted[-1]) == 0
        found_counts, found_tensors = kept(tmp_path / str(looks))
        assert found_counts == counts
        assert all(found_tensors[name].equal(tensors[name]) for name in tensors)
        ends |= {number for number, event in told if not isinstance(event, Step)}
        looks += 1
    assert looks > 10
    assert {0, 1} <= ends  # some cuts were made after they had ended


def test_a_loss_that_is_not_finite_at_a_rung(base: Any, sides: Sides, recipes: list[Recipe]) -> None:
    """That one alone has diverged."""
    wild = replace(recipes[1], learning_rate=1e30, warmup_ratio=0.0)
    told = list(train_pack(base, *sides, [recipes[0], wild], at="best", rungs=rungs_at(sides, 2, 0.05)))
    assert isinstance(of(told, 0)[-1], Trained)
    assert isinstance(of(told, 1)[-1], Diverged)
    assert "rungs' rows after step 1" in str(of(told, 1)[-1])
