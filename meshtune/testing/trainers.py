"""The contract of a trainer (`meshtune.training.steps.Train`), on a tiny model and a few rows that it brings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from meshtune.config import ModelConfig, TrainingConfig
from meshtune.training.checkpoints import attached, save_adapter
from meshtune.training.chosen_trainer import takes
from meshtune.training.loss import RowSet
from meshtune.training.models import load_model
from meshtune.training.recipe import recipe
from meshtune.training.steps import Checkpoint, Diverged, Step, Suspended, Train, Trained
from meshtune.training.validation import mean_loss, row_losses

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


class TrainerContract(OnTinyModel):
    """Subclass it and name the trainer, a model's folder and rows; see `meshtune.training.steps` for what is tested."""

    epochs: ClassVar[int] = 2

    @abstractmethod
    def trainer(self) -> Train:
        """The function."""

    def run(self, base: Any, *, at: Literal["best", "last"] = "best", **given: Any) -> list[Step | Trained]:
        """Everything that one training says."""
        checkpoint = {"checkpoint": given.pop("checkpoint")} if "checkpoint" in given else {}
        training = TrainingConfig(batch_size=4, epochs=self.epochs, precision="float32")
        made = recipe(training, {**POINT, **given}, 0)
        return list(self.trainer()(base, *self.rows(), made, at=at, **checkpoint))

    def test_steps_and_then_what_was_trained(self, base: Any) -> None:
        """A validation loss an epoch, in order, and at the end the loss of the epoch that counts."""
        *steps, trained = self.run(base)
        assert isinstance(trained, Trained)
        assert all(isinstance(step, Step) for step in steps)
        told = [step for step in steps if isinstance(step, Step)]
        assert [step.step for step in told] == sorted(step.step for step in told)
        losses = [step.validation_loss for step in told if step.validation_loss is not None]
        assert len(losses) == self.epochs
        assert trained.loss == min(losses)
        last = self.run(base, at="last")[-1]
        assert isinstance(last, Trained)
        assert last.loss == losses[-1]

    def test_the_saved_adapter_has_its_loss_over_the_base(self, base: Any, tmp_path: Path) -> None:
        """Read by PEFT, measured with the loss that is meant everywhere here."""
        trained = self.run(base)[-1]
        assert isinstance(trained, Trained)
        save_adapter(tmp_path / "adapter", trained.weights, trained.config, str(self.model_folder()))
        with attached(base, tmp_path / "adapter"):
            assert mean_loss(row_losses(base, self.rows()[1])) == pytest.approx(trained.loss, abs=1e-4)

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
        one, other = (self.run(base)[-1] for _ in range(2))
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        assert one.loss == other.loss
        assert math.isfinite(one.loss)
        assert all(one.weights[name].equal(other.weights[name]) for name in one.weights)

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
        losses = [
            [step.validation_loss for step in events if isinstance(step, Step) and step.validation_loss is not None]
            for events in (resumed, whole)
        ]
        assert losses[0] == losses[1]
        assert isinstance(resumed[-1], Trained)
        assert isinstance(whole[-1], Trained)
        assert resumed[-1].loss == whole[-1].loss
