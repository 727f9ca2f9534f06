"""Trainer `transformers`: Hugging Face's Trainer with a PEFT adapter, the usual way to train one and the reference.

The same seed gives the same adapter start, dropout masks and batches in the same order, whatever was trained before;
on one device with one number of threads results repeat bitwise (on a GPU as far as its kernels do). Validation and loss
are not Trainer's but `validation.py`'s and `loss.py`'s, weighted by label tokens, also over accumulated micro-batches.
Nothing is reported or printed, nothing written but checkpoints. These are taken between optimizer steps and during
validations, and are one file of `saved_state.py`, read back where Trainer would read its own. One process, one device;
what is a GPU's own (the scaler of float16, the random state of its generator) has not been run yet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from transformers import PrinterCallback, TrainerState, TrainingArguments
from transformers.pytorch_utils import Conv1D

from meshtune.errors import Fault, InputError
from meshtune.training import saved_state
from meshtune.training.checkpoints import new_adapter
from meshtune.training.in_thread import in_thread
from meshtune.training.loss import RowSet
from meshtune.training.models import quiet
from meshtune.training.progress import Emit, Progress
from meshtune.training.quantized import QuantizedLinear
from meshtune.training.recipe import Recipe
from meshtune.training.resumable import ResumableTrainer
from meshtune.training.saves import Saves
from meshtune.training.start_weights import CHANGING
from meshtune.training.steps import Checkpoint, Rungs, Step, Trained
from meshtune.training.targets import check_targets, targeted

TRAINER_STATE = "trainer_state.json"  # where Trainer looks for the step to go on from
# Transformers has renamed it; the old name is deprecated where the new one is known.
_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)


def train(
    base: Any,
    train_rows: RowSet,
    validation_rows: RowSet,
    recipe: Recipe,
    *,
    at: Literal["best", "last"],
    checkpoint: Checkpoint | None = None,
    rungs: Rungs | None = None,
) -> Generator[Step | Trained, None, None]:
    """Train an adapter over the base; see `steps.py` for what comes.

    Raises:
        InputError: the model lacks a target module, or the start weights cannot be had for it.
        Diverged: a loss was not finite.
        Suspended: the checkpoint asked for it.
    """
    config = lora_config(base, recipe)  # before the thread, so that it fails at once

    def work(emit: Emit) -> None:
        made_by = "" if checkpoint is None else saved_state.identity(recipe, at, train_rows, validation_rows)
        with new_adapter(base, config, recipe.seed) as adapter, quiet(), tempfile.TemporaryDirectory() as folder:
            arguments = _arguments(recipe, base.device, folder)
            trainer = ResumableTrainer(adapter.model, arguments, train_rows)
            saves = Saves(checkpoint, made_by)
            progress = Progress(trainer, adapter, validation_rows, at, emit, saves, rungs)
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
                    getattr(base, f"{_CHECKPOINTING}_disable")()
            emit(Trained(progress.loss, progress.weights, adapter.saved_config))

    return in_thread(work)


def lora_config(base: Any, recipe: Recipe) -> LoraConfig:
    """PEFT's configuration of a recipe. Raises InputError where the model lacks a target module."""
    targets = recipe.target_modules
    check_targets(base, targets)
    _check_start(base, recipe)
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


def _check_start(base: Any, recipe: Recipe) -> None:
    """What PEFT's start weights cannot do, before it fails inside, or goes wrong without a word."""
    start = recipe.init_lora_weights
    message = None
    if start == "orthogonal" and recipe.rank % 2:
        message = f"`orthogonal` needs an even rank, not {recipe.rank}"
    elif start in CHANGING:
        parts = targeted(base, recipe.target_modules)
        if any(isinstance(part, QuantizedLinear) for _, part in parts):
            message = f"`{start}` changes the base's weights, which `model.quantization` keeps in few bits"
        if start == "olora" and any(isinstance(part, Conv1D) for _, part in parts):
            message = "`olora` cannot be had for a model with transposed weights (Conv1D), such as GPT-2"
        embeddings = base.get_input_embeddings().weight
        if any(part.weight is embeddings for _, part in parts):
            message = f"`{start}` changes the output head, which is the embedding too: name other target modules"
    if message is not None:
        raise InputError(Fault(f"{message}; write another, such as true", key="init_lora_weights"))


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
        **{_CHECKPOINTING: recipe.gradient_checkpointing},
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
