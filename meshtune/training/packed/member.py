"""One adapter on its way through a training: where it stands, its optimizer, its losses, its best weights.

It steps by itself: what it does depends on its own recipe and rows, whatever else is in the pack. AdamW, clipping and
the schedule are those of Trainer; so are the rows of a step, which are cut into portions for memory's sake alone: the
loss of a step is the mean over all its label tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import get_scheduler

from meshtune.data.store import epoch_order
from meshtune.training.loss import Row, RowSet, alike
from meshtune.training.optimizers import is_usual, optimizer_of
from meshtune.training.packed.flat_adapter import FlatAdapter
from meshtune.training.packed.mixers import mixers
from meshtune.training.packed.rows import Portion, in_portions
from meshtune.training.recipe import Recipe, schedule, warmup_steps
from meshtune.training.steps import Diverged, Step, Trained

_COUNTS = ("step", "done", "draws", "tokens", "before", "step_loss", "epoch_loss", "epoch_labels", "loss")


class Member:
    """An adapter in a pack.

    Args:
        base: the model, packed or not. kind: the type of the products of training. limit: tokens of a portion.
        rungs: after how many tokens it shall be measured, ascending.

    Attributes:
        step, steps: optimizer steps done and to be done. done: portions done of the step that comes.
        draws: portions done in all. tokens: of these. before: tokens before the step that was done last.
        unread: the loss of the last portion, where it is still on the device.
        history: the first step, each rung, and each epoch's end. loss: of the epoch that counts.
    """

    def __init__(
        self,
        base: Any,
        recipe: Recipe,
        rows: RowSet,
        at: str,
        kind: torch.dtype,
        limit: int,
        rungs: tuple[int, ...] = (),
    ):
        self.recipe, self.rows, self.at, self.limit, self.rungs = recipe, rows, at, limit, rungs
        self.alike, self.padded = alike(base.config), bool(mixers(base))
        self.adapter = FlatAdapter(base, recipe, kind)
        self.optimizer = _optimizer(self.adapter, recipe)
        self._make_moments()
        self.size = recipe.batch_size * recipe.gradient_accumulation
        self.steps_an_epoch = math.ceil(len(rows) / self.size)
        self.steps = recipe.epochs * self.steps_an_epoch
        name, arguments = schedule(recipe, self.steps)
        warmup = warmup_steps(recipe, self.steps)
        self.schedule = get_scheduler(name, self.optimizer, warmup, self.steps, arguments)
        self.step = self.done = self.draws = self.tokens = self.before = 0
        self.step_loss, self.epoch_loss, self.epoch_labels = 0.0, 0.0, 0
        self.loss = math.inf
        self.best: torch.Tensor | None = None
        self.history: list[Step] = []
        self.earlier = 0.0
        self.unread: torch.Tensor | None = None
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None
        self._cut()

    @property
    def ended(self) -> bool:
        """Whether all its steps are done, and validated."""
        return self.step == self.steps and not self.validation_due

    @property
    def validation_due(self) -> bool:
        """Whether it stands at an epoch's end that is not validated yet."""
        validated = sum(step.validation_loss is not None for step in self.history)
        return self.step == (validated + 1) * self.steps_an_epoch

    @property
    def rungs_due(self) -> tuple[int, ...]:
        """The rungs that the last step reached, until they are measured."""
        if self.done:
            return ()
        measured = {step.rung for step in self.history}
        return tuple(rung for rung in self.rungs if self.before < rung <= self.tokens and rung not in measured)

    def portion(self) -> Portion:
        """Its rows of the next pass."""
        rows = self._portions[self.done]
        return Portion(self.adapter, rows, 1 / self._labels if self._labels else math.nan, self.draws)

    def restart(self) -> None:
        """Begin the step anew, whose gradient may be half done: memory ran out. The optimizer knows nothing of it."""
        self.adapter.gradient.zero_()
        self.tokens -= sum(len(tokens) for rows in self._portions[: self.done] for tokens, _ in rows)
        self.draws -= self.done
        self.done, self.step_loss, self.unread = 0, 0.0, None

    def took(self, losses: torch.Tensor) -> None:
        """Note the losses of the labels of its portion, whose gradient is in the adapter; `read` brings them."""
        self.unread = losses.sum()
        self.tokens += sum(len(tokens) for tokens, _ in self._portions[self.done])
        self.done += 1
        self.draws += 1

    def update(self) -> None:
        """Make the optimizer's step where its last portion is done, before its loss is known: `advance` looks at it."""
        if self.done < len(self._portions):
            return
        adapter = self.adapter
        if self.recipe.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_([adapter.weights], self.recipe.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        adapter.gradient.zero_()
        adapter.refresh()

    def advance(self) -> Step:
        """After each pass, updated and read: go on to the next step where the last portion is done. Raises Diverged."""
        loss = self.step_loss
        if not math.isfinite(loss):
            raise Diverged(f"the training loss of step {self.step + 1} was {loss}")
        if self.done < len(self._portions):
            return self.progress()
        self.epoch_loss += loss * self._labels
        self.epoch_labels += self._labels
        self.before = self.tokens - sum(len(tokens) for rows in self._portions for tokens, _ in rows)
        self.step, self.done, self.step_loss = self.step + 1, 0, 0.0
        step = self.progress(training_loss=loss)
        if not self.history:
            self.history.append(step)
        self._cut()
        return step

    def measured(self, loss: float) -> list[Step]:
        """At rungs: note the loss of their rows; gives what is told of each. Raises Diverged."""
        if not math.isfinite(loss):
            raise Diverged(f"the loss of the rungs' rows after step {self.step} was {loss}")
        steps = [replace(self.progress(), rung_loss=loss, rung=rung) for rung in self.rungs_due]
        self.history += steps
        return steps

    def validated(self, loss: float) -> Step:
        """At an epoch's end: note its loss, and keep the weights where it is what counts. Raises Diverged."""
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss after epoch {self.step // self.steps_an_epoch} was {loss}")
        if loss < self.loss or self.at == "last":
            self.loss, self.best = loss, self.adapter.plain(self.adapter.weights.detach()).to("cpu", copy=True)
        training, self.epoch_loss, self.epoch_labels = self.epoch_loss / self.epoch_labels, 0.0, 0
        self.history.append(self.progress(training_loss=training, validation_loss=loss))
        return self.history[-1]

    def trained(self) -> Trained:
        """The result, once it has ended."""
        assert self.best is not None
        return Trained(self.loss, self.adapter.named(self.best), self.adapter.config)

    def progress(self, training_loss: float | None = None, validation_loss: float | None = None) -> Step:
        """Where it stands."""
        epoch = (self.step + (self.done / len(self._portions) if self._portions else 0)) / self.steps_an_epoch
        return Step(self.step, self.steps, epoch, self.tokens, training_loss, validation_loss, self.earlier)

    def snapshot(self) -> dict[str, Any]:
        """Everything that its next pass depends on, and what it has told."""
        return {
            "weights": self.adapter.plain(self.adapter.weights.detach()),
            "gradient": self.adapter.plain(self.adapter.gradient) if self.done else None,
            "optimizer": self._moments(self.optimizer.state_dict(), self.adapter.plain),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "history": [astuple(step) for step in self.history],
            "counts": {name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, saved: dict[str, Any], earlier: float) -> None:
        """Go on from a snapshot, `earlier` seconds after the training began."""
        with torch.no_grad():
            self.adapter.weights.copy_(self.adapter.own(saved["weights"]))
            if saved["gradient"] is not None:
                self.adapter.gradient.copy_(self.adapter.own(saved["gradient"]))
        self.adapter.refresh()
        self.optimizer.load_state_dict(self._moments(saved["optimizer"], self.adapter.own))
        self.schedule.load_state_dict(saved["schedule"])
        self.best, self.earlier = saved["best"], earlier
        self.history = [Step(*values) for values in saved["history"]]
        for name in _COUNTS:
            setattr(self, name, saved["counts"][name])
        self._cut()

    def _make_moments(self) -> None:
        """Let the optimizer take its memory now, by a step that changes nothing: what has no room shows at once."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
        self.optimizer.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for state in self.optimizer.state.values():
            if "step" in state:  # a number, with bitsandbytes
                state["step"] *= 0

    def _moments(self, state: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """The optimizer's state with its flat tensors changed; those of single matrices are as they are kept."""
        return _each(state, change) if is_usual(self.recipe) else state

    def _cut(self) -> None:
        """The portions of the step that comes, and its labels; none after the last step."""
        epoch, step = divmod(self.step, self.steps_an_epoch)
        if self._order is None or self._order[0] != epoch:  # of a million rows it takes longer than a small step
            self._order = epoch, epoch_order(len(self.rows), self.recipe.seed, epoch)
        order = self._order[1][step * self.size : (step + 1) * self.size]
        rows: list[Row] = [] if self.step == self.steps else [self.rows[index] for index in order.tolist()]
        lengths = [len(tokens) for tokens, _ in rows]
        parts = in_portions(range(len(rows)), lengths, self.recipe.batch_size, self.limit, self.alike, self.padded)
        self._portions = [[rows[index] for index in part] for part in parts]
        self._labels = sum(int(trained[1:].sum()) for _, trained in rows)

    def _note(self, loss: float) -> None:
        self.step_loss += loss / self._labels if self._labels else math.nan
        self.unread = None


def read(members: Iterable[Member]) -> None:
    """Bring the losses of all portions that were taken from the device: the host waits for it here, once a pass."""
    unread = [(member, member.unread) for member in members if member.unread is not None]
    if unread:
        for (member, _), loss in zip(unread, torch.stack([x for _, x in unread]).tolist(), strict=True):
            member._note(loss)


def _optimizer(adapter: FlatAdapter, recipe: Recipe) -> torch.optim.Optimizer:
    """Over all weights at once where they are alike to it, else over the single matrices."""
    if not is_usual(recipe):
        return optimizer_of(adapter.matrices(), recipe)
    weights = [adapter.weights]
    return torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _each(state: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """An optimizer's state with its flat tensors changed."""
    moments = {
        number: {name: change(x) if name in ("exp_avg", "exp_avg_sq") else x for name, x in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": moments}
