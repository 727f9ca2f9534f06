"""What happens between the steps of a training: telling them, validating, keeping the best weights, saving the state.

A state is that of an optimizer step. What is to be measured there, at rungs and at an epoch's end, may still be due, so
that being asked to stop need not wait for a long validation: the history tells what was done.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import torch
from transformers import TrainerCallback

from meshtune.training.checkpoints import tensors
from meshtune.training.loss import RowSet
from meshtune.training.resumable import ResumableTrainer
from meshtune.training.saves import Saves
from meshtune.training.start_weights import Adapter, as_saved
from meshtune.training.steps import Diverged, Rungs, Step, Suspended, Trained
from meshtune.training.validation import mean_loss, row_losses

Emit = Callable[[Step | Trained], None]


class Progress(TrainerCallback):  # type: ignore[misc]  # TrainerCallback is untyped
    """Trainer's callback. `loss` and `weights` are in the end those of the epoch that counts."""

    def __init__(
        self,
        trainer: ResumableTrainer,
        adapter: Adapter,
        validation_rows: RowSet,
        at: str,
        emit: Emit,
        saves: Saves,
        rungs: Rungs | None,
    ):
        self.trainer, self.adapter, self.rows, self.at = trainer, adapter, validation_rows, at
        self.emit, self.saves, self.rungs = emit, saves, rungs
        self.epoch_loss, self.epoch_labels = 0.0, 0
        self.loss = math.inf
        self.weights: dict[str, torch.Tensor] = {}
        self.history: list[Step] = []  # the first step, each rung, and each epoch's end
        self.before = self.after = 0  # tokens, of the optimizer step that was done last

    def snapshot(self) -> dict[str, Any]:
        """What `restore` takes in a later process."""
        return {
            "epoch_loss": self.epoch_loss,
            "epoch_labels": self.epoch_labels,
            "loss": self.loss,
            "weights": self.weights,
            "history": [astuple(step) for step in self.history],
            "tokens": (self.before, self.after),
            "seconds": self.saves.seconds,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.epoch_loss, self.epoch_labels = saved["epoch_loss"], saved["epoch_labels"]
        self.loss, self.weights = saved["loss"], saved["weights"]
        self.history = [Step(*values) for values in saved["history"]]
        self.before, self.after = saved["tokens"]
        self.saves.earlier = saved["seconds"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a resume: tell the history again, and measure what is due."""
        if not self.history:
            return
        for step in self.history:
            self.emit(replace(step, earlier=self.saves.earlier))
        steps_an_epoch = state.max_steps // args.num_train_epochs
        state.epoch = state.global_step / steps_an_epoch
        self._say()
        self._measure_rungs()
        if state.global_step // steps_an_epoch > sum(step.validation_loss is not None for step in self.history):
            self.on_epoch_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the step's loss, and that of a rung; save where it is time to."""
        trainer = self.trainer
        loss, labels = trainer.step_loss.item(), trainer.step_labels
        trainer.step_loss.zero_()
        self.epoch_loss += loss * labels
        self.epoch_labels += labels
        step = self._say(training_loss=_finite(loss, f"the training loss of step {state.global_step}"))
        if not self.history:
            self.history.append(step)
        self.before, self.after = self.after, trainer.tokens
        self._measure_rungs()
        self.saves.where_due(self._save)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Between micro-batches."""
        self._say()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate what would be saved, and keep it where it is what counts."""
        with self._measuring(), as_saved(self.adapter):
            loss = self._measured(self.rows, f"the validation loss after epoch {round(state.epoch)}")
            if loss < self.loss or self.at == "last":
                self.loss, self.weights = loss, tensors(self.trainer.model)
        training, self.epoch_loss, labels, self.epoch_labels = self.epoch_loss, 0.0, self.epoch_labels, 0
        self.history.append(self._say(training_loss=training / labels, validation_loss=loss))
        self.saves.where_due(self._save)

    def _measure_rungs(self) -> None:
        """Those that the last step reached, until they are measured."""
        measured = {step.rung for step in self.history}
        tokens = () if self.rungs is None else self.rungs.tokens
        due = [rung for rung in tokens if self.before < rung <= self.after and rung not in measured]
        if self.rungs is None or not due:
            return
        with self._measuring(), as_saved(self.adapter):
            loss = self._measured(
                self.rungs.rows, f"the loss of the rungs' rows after step {self.trainer.state.global_step}"
            )
        self.history += [replace(self._standing(), rung_loss=loss, rung=rung) for rung in due]
        for step in self.history[-len(due) :]:
            self.emit(step)

    @contextlib.contextmanager
    def _measuring(self) -> Iterator[None]:
        """What is asked to stop meanwhile saves the state from before."""
        try:
            yield
        except Suspended:
            self._save()
            raise

    def _measured(self, rows: RowSet, what: str) -> float:
        # The model inside: Accelerate puts the autocast of training around the forward of the one outside.
        inside = self.trainer.model.get_base_model()
        return _finite(mean_loss(row_losses(inside, rows, tick=self._tick)), what)

    def _tick(self) -> None:
        self._say()
        if self.saves.asked:
            raise Suspended

    def _save(self) -> None:
        step = self.trainer.state.global_step
        self.saves.save({"step": step, "trainer": self.trainer.snapshot(), "progress": self.snapshot()})

    def _say(self, training_loss: float | None = None, validation_loss: float | None = None) -> Step:
        step = replace(self._standing(), training_loss=training_loss, validation_loss=validation_loss)
        self.emit(step)
        return step

    def _standing(self) -> Step:
        state = self.trainer.state
        epoch = state.epoch or 0.0
        return Step(state.global_step, state.max_steps, epoch, self.trainer.tokens, earlier=self.saves.earlier)


def _finite(loss: float, what: str) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"{what} was {loss}")
    return loss
