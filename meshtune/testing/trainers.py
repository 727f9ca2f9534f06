"""The contract of a trainer (`meshtune.training.steps.Train`), on a tiny model and a few rows that it brings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.chosen_trainer import takes
from meshtune.training.loss import RowSet, Selected, mean_loss, row_losses, rung_rows
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Suspended, Train, Trained

POINT = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}


class OnTinyModel(ABC):
    """What every contract of training is given."""

    @abstractmethod
    def model_folder(self) -> Path:
        """A causal language model, as small as can be."""

    @abstractmethod
    def rows(self) -> tuple[RowSet, RowSet]:
        """Rows to train on, more than eight, and rows to validate on."""

    @pytest.fixture
    def base(self) -> Any:
        """The model, on the CPU."""
        return load_model(ModelConfig(name=str(self.model_folder())), "cpu")


def rungs_at(rows: tuple[RowSet, RowSet], epochs: int, *shares: float) -> Rungs:
    """Rungs at shares of the tokens of so many epochs, with half of the rows to validate on."""
    train, validation = rows
    total = epochs * sum(len(train[index][0]) for index in range(len(train)))
    chosen = rung_rows(len(validation), (len(validation) + 1) // 2, 0)
    return Rungs(tuple(round(share * total) for share in shares), Selected(validation, chosen))


class TrainerContract(OnTinyModel):
    """Subclass it and name the trainer, a model's folder and rows; see `meshtune.training.steps` for what is tested."""

    epochs: ClassVar[int] = 2

    @abstractmethod
    def trainer(self) -> Train:
        """The function."""

    def run(self, base: Any, *, at: Literal["best", "last"] = "best", **given: Any) -> list[Step | Trained]:
        """Everything that one training says."""
        passed = {name: given.pop(name) for name in ("checkpoint", "rungs") if name in given}
        training = TrainingConfig(batch_size=4, epochs=self.epochs, precision="float32")
        made = recipe(training, {**POINT, **given}, 0)
        return list(self.trainer()(base, *self.rows(), made, at=at, **passed))

    def test_steps_and_then_what_was_trained(self, base: Any) -> None:
        """A validation loss an epoch, in order, and at the end the loss of the epoch that counts."""
        events = self.run(base)
        assert all(isinstance(event, Step) for event in events[:-1])
        numbers = [event.step for event in events if isinstance(event, Step)]
        assert numbers == sorted(numbers)
        found = validation_losses(events)
        assert len(found) == self.epochs
        assert trained(events).loss == min(found)
        assert trained(self.run(base, at="last")).loss == found[-1]

    def test_the_saved_adapter_has_its_loss_over_the_base(self, base: Any, tmp_path: Path) -> None:
        """Read by PEFT, measured with the loss that is meant everywhere here."""
        made = trained(self.run(base))
        save_adapter(tmp_path / "adapter", made.weights, made.config, str(self.model_folder()))
        with attached(base, tmp_path / "adapter"):
            assert mean_loss(row_losses(base, self.rows()[1])) == pytest.approx(made.loss, abs=1e-4)

    def test_the_base_is_left_as_it_was(self, base: Any) -> None:
        """Bitwise, after a training, one that was closed, and one that failed."""
        before = {name: weight.clone() for name, weight in base.state_dict().items()}
        self.run(base)
        training = TrainingConfig(batch_size=4, epochs=self.epochs, precision="float32")
        steps = self.trainer()(base, *self.rows(), recipe(training, POINT, 0), at="last")
        next(iter(steps))
        if hasattr(steps, "close"):
            steps.close()
        with pytest.raises(Diverged):
            self.run(base, learning_rate=1e30, epochs=20)
        after = base.state_dict()
        assert before.keys() == after.keys()
        assert all(before[name].equal(after[name]) for name in before)

    def test_it_repeats(self, base: Any) -> None:
        """The same recipe, the same losses and weights."""
        one, other = (trained(self.run(base)) for _ in range(2))
        assert math.isfinite(one.loss)
        assert same(one, other)

    def test_it_goes_on_from_its_checkpoint(self, base: Any, tmp_path: Path) -> None:
        """Asked to stop, it raises `Suspended`; the next run has the losses of one that was never asked."""
        if not takes(self.trainer(), "checkpoint"):
            pytest.skip("it takes no checkpoint")
        with pytest.raises(Suspended):
            self.run(base, checkpoint=Checkpoint(tmp_path / "state", None, lambda: True))
        resumed = self.run(base, checkpoint=Checkpoint(tmp_path / "state", None, lambda: False))
        whole = self.run(base)
        assert isinstance(resumed[0], Step)
        assert resumed[0].earlier > 0
        assert validation_losses(resumed) == validation_losses(whole)
        assert trained(resumed).loss == trained(whole).loss

    def test_rungs_are_measured_and_change_nothing(self, base: Any) -> None:
        """Each once, after the step that reached it, two in one step with one loss; what is trained is the same."""
        if not takes(self.trainer(), "rungs"):
            pytest.skip("it measures no rungs")
        rungs = rungs_at(self.rows(), self.epochs, 0.01, 0.02, 0.6)
        with_rungs, plain = self.run(base, rungs=rungs), self.run(base)
        found = [step for step in with_rungs if isinstance(step, Step) and step.rung_loss is not None]
        assert [step.rung for step in found] == list(rungs.tokens)
        assert found[0].rung_loss == found[1].rung_loss != found[2].rung_loss
        for step in found:
            assert step.training_loss is step.validation_loss is None
            assert step.rung is not None
            before = max((s.tokens for s in plain if isinstance(s, Step) and s.step < step.step), default=0)
            assert before < step.rung <= step.tokens
        assert losses(with_rungs) == losses(plain)
        assert same(trained(with_rungs), trained(plain))

    def test_stopped_at_a_rung_it_goes_on_from_there(self, base: Any, tmp_path: Path) -> None:
        """Asked to stop when it tells a rung; the next run tells that again, and ends as one that was never asked."""
        if not (takes(self.trainer(), "rungs") and takes(self.trainer(), "checkpoint")):
            pytest.skip("it measures no rungs, or takes no checkpoint")
        rungs = rungs_at(self.rows(), self.epochs, 0.2, 0.6, 0.8)
        training = TrainingConfig(batch_size=4, epochs=self.epochs, precision="float32")
        before: list[Step | Trained] = []
        checkpoint = Checkpoint(
            tmp_path, None, lambda: len(before) > 0 and getattr(before[-1], "rung", None) is not None
        )
        given = base, *self.rows(), recipe(training, POINT, 0)
        with pytest.raises(Suspended):
            _collect(self.trainer()(*given, at="best", checkpoint=checkpoint, rungs=rungs), before)
        resumed = self.run(base, rungs=rungs, checkpoint=Checkpoint(tmp_path, None, lambda: False))
        whole = self.run(base, rungs=rungs)
        assert isinstance(resumed[0], Step)
        assert resumed[0].earlier > 0
        rung_losses = [
            [(step.rung, step.rung_loss) for step in events if isinstance(step, Step) and step.rung is not None]
            for events in (before, resumed, whole)
        ]
        assert rung_losses[0] == rung_losses[1][:1]
        assert rung_losses[1] == rung_losses[2]
        assert same(trained(resumed), trained(whole))


def _collect(events: Iterator[Step | Trained], into: list[Step | Trained]) -> None:
    for event in events:
        into.append(event)


def trained(events: list[Step | Trained]) -> Trained:
    """What a training ended with."""
    last = events[-1]
    assert isinstance(last, Trained)
    return last


def same(one: Trained, other: Trained) -> bool:
    """Whether two trainings have the same loss and, bitwise, the same weights."""
    return one.loss == other.loss and all(one.weights[name].equal(other.weights[name]) for name in one.weights)


def validation_losses(events: list[Step | Trained]) -> list[float]:
    """Of each epoch."""
    return [event.validation_loss for event in events if isinstance(event, Step) and event.validation_loss is not None]


def losses(events: list[Step | Trained]) -> list[tuple[float | None, float | None]]:
    """Losses of training and validation, step by step."""
    steps = [step for step in events if isinstance(step, Step)]
    return [(s.training_loss, s.validation_loss) for s in steps if s.training_loss is not None]
