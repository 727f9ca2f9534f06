"""What happens between the steps of a training: telling them, validating, keeping the best weights, saving the state.

A state is that of an optimizer step. At an epoch's last step its validation may still be due, so that being asked to
stop need not wait for a long one: the number of epochs in the history tells whether it was done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import torch
from transformers import TrainerCallback

from meshtune.training.checkpoints import tensors
from meshtune.training.loss import RowSet
from meshtune.training.resumable import ResumableTrainer
from meshtune.training.saves import Saves
from meshtune.training.start_weights import Adapter, as_saved
from meshtune.training.steps import Diverged, Step, Suspended, Trained
from meshtune.training.validation import mean_loss, row_losses

Emit = Callable[[Step | Trained], None]


class Progress(TrainerCallback):  # type: ignore[misc]  # TrainerCallback is untyped
    """Trainer's callback. `loss` and `weights` are in the end those of the epoch that counts."""

    def __init__(
        self, trainer: ResumableTrainer, adapter: Adapter, validation_rows: RowSet, at: str, emit: Emit, saves: Saves
    ):
        self.trainer, self.adapter, self.rows, self.at = trainer, adapter, validation_rows, at
        self.emit, self.saves = emit, saves
        self.epoch_loss, self.epoch_labels = 0.0, 0
        self.loss = math.inf
        self.weights: dict[str, torch.Tensor] = {}
        self.history: list[Step] = []  # the first step, and each epoch's end

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes in a later process."""
        return {
            "epoch_loss": self.epoch_loss,
            "epoch_labels": self.epoch_labels,
            "loss": self.loss,
            "weights": self.weights,
            "history": [astuple(step) for step in self.history],
            "seconds": self.saves.seconds,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.epoch_loss, self.epoch_labels = saved["epoch_loss"], saved["epoch_labels"]
        self.loss, self.weights = saved["loss"], saved["weights"]
        self.history = [Step(*values) for values in saved["history"]]
        self.saves.earlier = saved["seconds"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a resume: tell the history again, and validate where that is due."""
        if not self.history:
            return
        for step in self.history:
            self.emit(replace(step, earlier=self.saves.earlier))
        steps_an_epoch = state.max_steps // args.num_train_epochs
        state.epoch = state.global_step / steps_an_epoch
        self._say()
        if state.global_step // steps_an_epoch >= len(self.history):  # the first step is no epoch
            self.on_epoch_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the step's loss; save where it is time to."""
        trainer = self.trainer
        loss, labels = trainer.step_loss.item(), trainer.step_labels
        trainer.step_loss.zero_()
        self.epoch_loss += loss * labels
        self.epoch_labels += labels
        step = self._say(training_loss=_finite(loss, f"the training loss of step {state.global_step}"))
        if not self.history:
            self.history.append(step)
        self._save_where_due()

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between micro-batches."""
        self._say()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate what would be saved, and keep it where it is what counts."""
        # The model inside: Accelerate puts the autocast of training around the forward of the one outside.
        inside = self.trainer.model.get_base_model()
        try:
            with as_saved(self.adapter):
                losses = row_losses(inside, self.rows, tick=self._tick)
                loss = _finite(mean_loss(losses), f"the validation loss after epoch {round(state.epoch)}")
                if loss < self.loss or self.at == "last":
                    self.loss, self.weights = loss, tensors(self.trainer.model)
        except Suspended:
            self._save()
            raise
        training, self.epoch_loss, labels, self.epoch_labels = self.epoch_loss, 0.0, self.epoch_labels, 0
        self.history.append(self._say(training_loss=training / labels, validation_loss=loss))
        self._save_where_due()

    def _tick(self) -> None:
        self._say()
        if self.saves.asked:
            raise Suspended

    def _save_where_due(self) -> None:
        asked = self.saves.asked
        if asked or self.saves.due:
            self._save()
        if asked:
            raise Suspended

    def _save(self) -> None:
        step = self.trainer.state.global_step
        self.saves.save({"step": step, "trainer": self.trainer.snapshot(), "progress": self.snapshot()})

    def _say(self, training_loss: float | None = None, validation_loss: float | None = None) -> Step:
        state = self.trainer.state
        step = Step(
            state.global_step,
            state.max_steps,
            state.epoch or 0.0,
            self.trainer.tokens,
            training_loss,
            validation_loss,
            self.saves.earlier,
        )
        self.emit(step)
        return step


def _finite(loss: float, what: str) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"{what} was {loss}")
    return loss
