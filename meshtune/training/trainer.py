"""Trainer `transformers`: Hugging Face's Trainer with a PEFT adapter, the usual way to train one and the reference.

The same seed gives the same adapter start, dropout masks and batches in the same order, whatever was trained before;
on one device with one number of threads results repeat bitwise (on a GPU as far as its kernels do). Validation and loss
are not Trainer's but `loss.py`'s, weighted by label tokens, also over accumulated micro-batches.
Nothing is reported or printed, nothing written but checkpoints. These are taken between optimizer steps and during
validations, and are one file of `saved_state.py`, read back where Trainer would read its own. Trainer knows of one
process and one device; where a trial has several, the others compute some rows of each micro-batch (`shared.py`). What
is a GPU's own (the scaler of float16, the random state of its generator) has not been run yet.

`train` puts the parts together. `ResumableTrainer` is Hugging Face's Trainer with our order of rows, our loss, and
checkpoints that are values instead of files. `Progress` is its callback: it says the steps, validates, keeps the best
weights and saves the state. A state is that of an optimizer step. What is to be measured there, at rungs and at an
epoch's end, may still be due, so that being asked to stop need not wait for a long validation: the history has what was
done.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from meshtune.data.store import epoch_order
from meshtune.errors import Fault, InputError
from meshtune.training import neftune, saved_state
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import new_adapter, tensors
from meshtune.training.loss import RowSet, collate, label_losses, mean_loss, row_losses
from meshtune.training.models import quiet
from meshtune.training.optimizers import is_usual, optimizer_of
from meshtune.training.packed import sharded
from meshtune.training.packed.ranks import Ranks
from meshtune.training.recipe import Recipe, check_cut, schedule, steps_of
from meshtune.training.saved_state import Saves
from meshtune.training.shared import CHECKPOINTING, SharedAdapter, masked_as, parts, random_state
from meshtune.training.start_weights import Adapter, as_saved
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Suspended, Trained, in_thread

TRAINER_STATE = "trainer_state.json"  # where Trainer looks for the step to go on from


def train(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
    ranks: Ranks | None = None,
) -> Generator[Step | Trained, None, None]:
    """Train an adapter over the base; see `steps.py` for what comes.

    `ranks`: other processes that share the rows; results do not depend on them, but for rounding. None: there are none.

    Raises:
        InputError: the model lacks a target module, or the start weights cannot be had for it, or not over several
            devices; nor noise on embeddings.
        Diverged: a loss was not finite.
        Suspended: the checkpoint asked for it.
    """
    config = lora_config(base, recipe)  # before the thread, so that it fails at once
    _check_ranks(base, train_rows, recipe, ranks)
    others = contextlib.nullcontext() if ranks is None else ranks.adapting(recipe)

    def work(emit: Emit) -> None:
        made_by = "" if checkpoint is None else saved_state.identity(recipe, at, train_rows, validation_rows)
        made = new_adapter(base, config, recipe.seed)
        with others, made as adapter, quiet(), tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(recipe, len(train_rows), base.device, folder)
            trainer = ResumableTrainer(adapter.model, arguments, train_rows, recipe, ranks)
            saves = Saves(checkpoint, made_by)
            progress = Progress(trainer, adapter, recipe, validation_rows, at, emit, saves, rungs)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(progress)
            saved = None if checkpoint is None else saved_state.read(checkpoint.folder, made_by)
            if saved is not None:
                trainer.saved = saved["trainer"]
                progress.restore(saved["progress"])
                state = TrainerState(global_step=saved["step"], train_batch_size=recipe.batch_size)
                state.save_to_json(str(Path(folder) / TRAINER_STATE))
            try:
                trainer.train(resume_from_checkpoint=None if saved is None else folder)
            finally:
                if recipe.gradient_checkpointing:
                    getattr(base, f"{CHECKPOINTING}_disable")()
            emit(Trained(progress.loss, progress.weights, adapter.saved_config))

    return in_thread(work)


def _check_ranks(base: Any, rows: RowSet, recipe: Recipe, ranks: Ranks | None) -> None:
    if ranks is not None and ranks.sharded:
        check_cut(recipe)
        sharded.check_lengths(base, rows)
    if ranks is not None and recipe.neftune_alpha:
        what = "the noise is drawn by one process: over several devices only what can be packed is trained with it"
        raise InputError(Fault(what, key="training.neftune_alpha"))


def _arguments(recipe: Recipe, rows: int, device: torch.device, folder: str) -> TrainingArguments:
    scheduler, given = schedule(recipe, steps_of(recipe, rows))
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        lr_scheduler_type=scheduler,
        lr_scheduler_kwargs=given,
        warmup_steps=recipe.warmup_ratio,  # below 1 they are a share of all steps
        optim="adamw_torch",
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        **{CHECKPOINTING: recipe.gradient_checkpointing},
        seed=recipe.seed,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


class _Order(torch.utils.data.Sampler[int]):
    """The rows in the order of the epoch that Trainer has set."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.rows, self.seed, self.epoch).tolist())


class ResumableTrainer(Trainer):  # type: ignore[misc]  # Trainer is untyped
    """Trainer of what requires gradients in `model`, an adapter; `ranks` are others that compute some of its rows.

    `snapshot()` is everything that the next optimizer step depends on; a trainer that is given it as `saved` and
    resumes takes that step bitwise as the first one would have, on the same device with the same number of threads.
    torch's random generators are all that it saves of randomness: a model with code of its own that draws from others
    differs.
    The methods that begin with an underscore are Trainer's own, where it would read its checkpoint's files.

    `saved`: what `snapshot` gave in an earlier process; set before a resume. `tokens`: trained on so far, padding left
    out. `step_loss`, `step_labels`: of the step so far, the mean over its labels and their number.
    """

    def __init__(
        self, model: Any, arguments: TrainingArguments, rows: RowSet, recipe: Recipe, ranks: Ranks | None = None
    ):
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else Trainer would split batches over all GPUs that it sees
        super().__init__(model, arguments, data_collator=collate, train_dataset=rows)
        self.model_accepts_loss_kwargs = True  # count the labels of all micro-batches of a step, for any model
        self.loss_is_scaled_for_ga = True  # and do not divide by the number of micro-batches
        self.recipe, self.tokens = recipe, 0
        self.draws = 0  # micro-batches so far
        self.step_loss = torch.zeros((), device=arguments.device)
        self.step_labels = 0
        self.saved: dict[str, Any] = {}
        self.ranks, self.begins = ranks, True  # an optimizer's step
        if ranks is not None:
            self.adapter = SharedAdapter(model)
            ranks.adapted(self.adapter)

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:
        return _Order(len(self.train_dataset), self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The micro-batch's part of the mean over the label tokens of the step."""
        loss: torch.Tensor = label_losses(model, inputs).sum() / num_items_in_batch
        self.step_loss += loss.detach()
        self.step_labels = int(num_items_in_batch)
        return loss

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Loss and gradient of a micro-batch; those of the other processes' rows are added, once a step is whole."""
        tokens = int(inputs["attention_mask"].sum())
        with self._noised(inputs["attention_mask"], tokens):
            self.tokens += tokens
            self.draws += 1
            return self._training_step(model, inputs, num_items_in_batch)

    def _noised(self, mask: torch.Tensor, tokens: int) -> contextlib.AbstractContextManager[None]:
        """NEFTune's noise on the rows of a micro-batch, which have so many tokens."""
        if not self.recipe.neftune_alpha:
            return contextlib.nullcontext()
        lengths = mask.sum(1).to(self.args.device)
        seed, number = self.recipe.seed, self.draws

        def noise(embedded: torch.Tensor) -> torch.Tensor:
            found = torch.zeros_like(embedded, dtype=torch.float32)
            drawn = neftune.draw(tokens, embedded.shape[2], seed, number, embedded.device)
            each = lengths.repeat_interleave(lengths)
            found[mask.bool()] = neftune.scaled(drawn, each, self.recipe.neftune_alpha)
            return found

        return neftune.adding(self.model, noise)

    def _training_step(self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any) -> torch.Tensor:
        ranks, scaler, device = self.ranks, self.accelerator.scaler, self.args.device
        if ranks is None:
            return super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-any-return]
        if self.begins:
            self.adapter.begin()
            self.adapter.refresh()
        own, *others = parts(inputs, ranks.count)
        scale = 1.0 if scaler is None else scaler.get_scale()
        given = int(num_items_in_batch), scale, random_state(device)
        with ranks.computing(others, *given), masked_as(self.model, own):
            loss: torch.Tensor = super().training_step(model, dict(own.inputs), num_items_in_batch)
        found = ranks.results()
        if None in found:
            raise MemoryError("a device of the trial has no room for its rows of a batch")
        self.step_loss += sum(found)
        loss += sum(found)
        self.begins = self.accelerator.sync_gradients
        if self.begins:
            ranks.sum_gradients([0])
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's own, or the recipe's."""
        if is_usual(self.recipe):
            return super().create_optimizer(model)  # type: ignore[no-any-return]
        self.optimizer = optimizer_of(self.trainable().items(), self.recipe)
        return self.optimizer

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's weights by their names in the model."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def snapshot(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        scaler = self.accelerator.scaler
        device = self.args.device
        return {
            "adapter": {name: weight.detach() for name, weight in self.trainable().items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "tokens": self.tokens,
            "draws": self.draws,
        }

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        for name, weight in self.trainable().items():
            weight.copy_(self.saved["adapter"][name])
        self.tokens, self.draws = self.saved["tokens"], self.saved.get("draws", 0)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.saved:
            self.optimizer.load_state_dict(self.saved["optimizer"])
            self.lr_scheduler.load_state_dict(self.saved["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.saved and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.saved["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by Trainer once the first batches are drawn, which takes random numbers too."""
        if self.saved:
            torch.set_rng_state(self.saved["random"])
            if self.args.device.type == "cuda":
                torch.cuda.set_rng_state(self.saved["random_device"], self.args.device)


Emit = Callable[[Step | Trained], None]


class Progress(TrainerCallback):  # type: ignore[misc]  # TrainerCallback is untyped
    """Trainer's callback. `loss` and `weights` are in the end those of the epoch that counts."""

    def __init__(
        self,
        trainer: ResumableTrainer,
        adapter: Adapter,
        recipe: Recipe,
        validation_rows: RowSet,
        at: str,
        emit: Emit,
        saves: Saves,
        rungs: Rungs | None,
    ):
        self.trainer, self.adapter, self.recipe, self.rows, self.at = trainer, adapter, recipe, validation_rows, at
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
        step = self.trainer.state.global_step
        with self._measuring(), as_saved(self.adapter):
            loss = self._measured(self.rungs.rows, f"the loss of the rungs' rows after step {step}")
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
        if self.saves.stopping:
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
