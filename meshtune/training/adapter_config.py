"""PEFT's configuration of a recipe, and what of it a model cannot have."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from meshtune.errors import Fault, InputError
from meshtune.training.models import check_targets, targeted
from meshtune.training.quantized import QuantizedLinear
from meshtune.training.recipe import CHANGING, Recipe


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
