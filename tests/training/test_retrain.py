"""One adapter trained once more: what is told, ended on request, and rows of several sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from meshtune.config.sections import TrainingConfig
from meshtune.training.chosen_trainer import Epoch, Joined, retrain, takes, trainer_of
from meshtune.training.loss import Row
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Checkpoint, Step, Suspended, Train, Trained
from meshtune.training.trainer import train

MakeRecipe = Callable[..., Recipe]

SAYING = """
import torch
from meshtune.training.steps import Step, Trained

def train(base, train_rows, validation_rows, recipe, *, at):
    for epoch in (1, 2):
        yield Step(2 * epoch - 1, 4, epoch - 0.5, 10 * epoch, training_loss=3.0 - epoch)
        yield Step(2 * epoch, 4, float(epoch), 20 * epoch, training_loss=2.5 - epoch, validation_loss=4.0 - epoch)
    yield Trained(2.0, {"rows": torch.tensor([len(train_rows), len(validation_rows)])}, None)
"""


def never() -> bool:
    return False


def test_it_is_the_trial_again(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Same weights and losses as the trainer gives in a trial."""
    steps = list(train(base, train_rows, validation_rows, make_recipe(), at="best"))
    trained = steps[-1]
    told: list[Step | Epoch] = []
    again = retrain(
        base,
        train_rows,
        validation_rows,
        make_recipe(),
        at="best",
        trainer=train,
        saves=False,
        checkpoint=Checkpoint(tmp_path / "checkpoint", None, never),
        report=told.append,
    )
    assert isinstance(trained, Trained)
    assert again.trained.loss == trained.loss
    assert all(torch.equal(again.trained.weights[name], trained.weights[name]) for name in trained.weights)
    assert [epoch.validation_loss for epoch in again.epochs] == [
        step.validation_loss for step in steps if isinstance(step, Step) and step.validation_loss is not None
    ]
    assert [event for event in told if isinstance(event, Epoch)] == list(again.epochs)
    assert again.tokens == 2 * sum(len(tokens) for tokens, _ in train_rows)


def test_without_held_out_rows_no_loss_is_told(
    base: Any, train_rows: list[Row], validation_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """All rows are trained on, and each epoch has a training loss alone."""
    done = retrain(
        base,
        Joined([train_rows, validation_rows]),
        None,
        make_recipe(),
        at="last",
        trainer=train,
        saves=False,
        checkpoint=Checkpoint(tmp_path / "checkpoint", None, never),
        report=lambda event: None,
    )
    assert [epoch.epoch for epoch in done.epochs] == [1, 2]
    assert all(epoch.validation_loss is None and epoch.training_loss for epoch in done.epochs)
    assert done.tokens == 2 * sum(len(tokens) for tokens, _ in (*train_rows, *validation_rows))


@pytest.fixture
def saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A trainer of one's own that takes no checkpoint."""
    (tmp_path / "saying_trainer.py").write_text(SAYING)
    monkeypatch.syspath_prepend(tmp_path)
    named = {"name": "import", "import": "saying_trainer:train"}
    found = trainer_of(TrainingConfig.model_validate({"trainer": named}))
    assert not takes(found, "checkpoint")
    return found


def test_a_trainer_of_ones_own(saying: Train, train_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path) -> None:
    done = retrain(
        None,
        train_rows,
        None,
        make_recipe(),
        at="last",
        trainer=saying,
        saves=False,
        checkpoint=Checkpoint(tmp_path / "checkpoint", None, never),
        report=lambda event: None,
    )
    assert done.epochs == (Epoch(1, 1.5, None), Epoch(2, 0.5, None))
    assert done.trained.weights["rows"].tolist() == [22, 1]  # one row to validate on, whose loss is dropped
    assert done.tokens == 40


def test_one_that_saves_nothing_still_ends_when_asked(
    saying: Train, train_rows: list[Row], make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    told: list[Step | Epoch] = []
    with pytest.raises(Suspended):
        retrain(
            None,
            train_rows,
            train_rows,
            make_recipe(),
            at="last",
            trainer=saying,
            saves=False,
            checkpoint=Checkpoint(tmp_path / "checkpoint", None, lambda: len(told) == 2),
            report=told.append,
        )
    assert told[-1] == Epoch(1, 1.5, 3.0)


def test_joined_rows_keep_their_order(train_rows: list[Row], validation_rows: list[Row]) -> None:
    rows = Joined([train_rows, [], validation_rows])
    assert len(rows) == len(train_rows) + len(validation_rows)
    assert rows[0] is train_rows[0]
    assert rows[len(train_rows)] is validation_rows[0]
    assert len(list(rows)) == len(rows)  # type: ignore[call-overload]  # an IndexError ends it
