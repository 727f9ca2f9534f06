"""Trainer `transformers`: Hugging Face's Trainer with a PEFT adapter, the usual way to train one and the reference.

The same seed gives the same adapter start, dropout masks and batches in the same order, whatever was trained before;
on one device with one number of threads results repeat bitwise (on a GPU as far as its kernels do). Validation and loss
are not Trainer's but `validation.py`'s and `loss.py`'s, weighted by label tokens, also over accumulated micro-batches.
Nothing is written, reported or printed. One process, one device; GPU paths have not been run yet.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal

import torch
from peft import LoraConfig
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.pytorch_utils import Conv1D

from meshtune.data.batches import epoch_order
from meshtune.errors import Fault, InputError, nearest
from meshtune.training.checkpoints import adapted, tensors
from meshtune.training.in_thread import in_thread
from meshtune.training.loss import RowSet, collate, label_losses
from meshtune.training.models import quiet
from meshtune.training.recipe import Recipe
from meshtune.training.steps import Diverged, Step, Trained
from meshtune.training.validation import mean_loss, row_losses

Emit = Callable[[Step | Trained], None]


def train(
    base: Any, train_rows: RowSet, validation_rows: RowSet, recipe: Recipe, *, at: Literal["best", "last"]
) -> Generator[Step | Trained, None, None]:
    """Train an adapter over the base; see `steps.py` for what comes.

    Raises:
        InputError: the model lacks a target module.
        Diverged: a loss was not finite.
    """
    config = lora_config(base, recipe)  # before the thread, so that it fails at once

    def work(emit: Emit) -> None:
        with adapted(base, config, recipe.seed) as model, quiet(), tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(recipe, base.device, folder)
            trainer = _Trainer(model, arguments, train_rows)
            progress = _Progress(trainer, validation_rows, at, emit)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(progress)
            try:
                trainer.train()
            finally:
                if recipe.gradient_checkpointing:
                    base.activation_checkpointing_disable()
            emit(Trained(progress.loss, progress.weights, model.peft_config["default"]))

    return in_thread(work)


def lora_config(base: Any, recipe: Recipe) -> LoraConfig:
    """PEFT's configuration of a recipe. Raises InputError where the model lacks a target module."""
    targets = recipe.target_modules
    if not isinstance(targets, str):
        names = [name for name, part in base.named_modules() if isinstance(part, nn.Linear | nn.Embedding | Conv1D)]
        known = sorted({name.rpartition(".")[2] for name in names})
        missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
        if missing or not targets:
            text = f"it has {', '.join(known)}, or write all-linear"
            raise InputError(
                [
                    Fault(f"the model has no module `{t}`; {text}.{nearest(t, known)}", key="target_modules")
                    for t in missing
                ]
                or Fault(f"no target module is named; {text}", key="target_modules")
            )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        init_lora_weights=recipe.init_lora_weights,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


def _arguments(recipe: Recipe, device: torch.device, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # Trainer's `constant` knows no warm-up; below 1 the steps are a share of all steps.
        lr_scheduler_type="constant_with_warmup" if recipe.lr_scheduler == "constant" else recipe.lr_scheduler,
        warmup_steps=recipe.warmup_ratio,
        optim="adamw_torch",
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        activation_checkpointing=recipe.gradient_checkpointing,
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


class _Trainer(Trainer):  # type: ignore[misc]  # Trainer is untyped
    """Trainer with our order of rows and our loss, which it keeps count of."""

    def __init__(self, model: Any, arguments: TrainingArguments, rows: RowSet):
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else Trainer would split batches over all GPUs that it sees
        super().__init__(model, arguments, data_collator=collate, train_dataset=rows)
        self.model_accepts_loss_kwargs = True  # count the labels of all micro-batches of a step, for any model
        self.loss_is_scaled_for_ga = True  # and do not divide by the number of micro-batches
        self.tokens = 0
        self.step_loss = torch.zeros((), device=arguments.device)
        self.step_labels = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:
        return _Order(len(self.train_dataset), self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The micro-batch's part of the mean over the label tokens of the step."""
        loss: torch.Tensor = label_losses(model, inputs).sum() / num_items_in_batch
        self.step_loss += loss.detach()
        self.step_labels = int(num_items_in_batch)
        self.tokens += int(inputs["attention_mask"].sum())
        return loss


class _Progress(TrainerCallback):  # type: ignore[misc]  # TrainerCallback is untyped
    """Hands each step over, validates at each epoch's end, and keeps the weights that are asked for."""

    def __init__(self, trainer: _Trainer, validation_rows: RowSet, at: str, emit: Emit):
        self.trainer, self.rows, self.at, self.emit = trainer, validation_rows, at, emit
        self.epoch_loss, self.epoch_labels = 0.0, 0
        self.loss = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        loss, labels = trainer.step_loss.item(), trainer.step_labels
        trainer.step_loss.zero_()
        self.epoch_loss += loss * labels
        self.epoch_labels += labels
        self._say(training_loss=_finite(loss, f"the training loss of step {state.global_step}"))

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._say()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        model = self.trainer.model
        training, self.epoch_loss, labels, self.epoch_labels = self.epoch_loss, 0.0, self.epoch_labels, 0
        # The model inside: Accelerate puts the autocast of training around the forward of the one outside.
        losses = row_losses(model.get_base_model(), self.rows, tick=self._say)
        loss = _finite(mean_loss(losses), f"the validation loss after epoch {round(state.epoch)}")
        if loss < self.loss or self.at == "last":
            self.loss, self.weights = loss, tensors(model)
        self._say(training_loss=training / labels, validation_loss=loss)

    def _say(self, training_loss: float | None = None, validation_loss: float | None = None) -> None:
        state = self.trainer.state
        self.emit(
            Step(
                state.global_step,
                state.max_steps,
                state.epoch or 0.0,
                self.trainer.tokens,
                training_loss,
                validation_loss,
            )
        )


def _finite(loss: float, what: str) -> float:
    if not math.isfinite(loss):
        raise Diverged(f"{what} was {loss}")
    return loss
