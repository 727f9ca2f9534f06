"""PEFT's adapter configuration as JSON: the arguments of `peft.LoraConfig`, as an `adapter_config.json` has them."""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.training import ForeignStudy


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The arguments, and notes on what is different there. Alpha stands as it is: PEFT takes any number."""
    recipe = study.recipe
    alpha = int(recipe.alpha) if float(recipe.alpha).is_integer() else recipe.alpha
    values: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": study.model_name,
        "revision": study.model.revision,
        "r": recipe.rank,
        "lora_alpha": alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": say.targets(study) or "all-linear",
        "use_rslora": recipe.use_rslora,
        "use_dora": recipe.use_dora,
        "init_lora_weights": recipe.init_lora_weights,
        "bias": "none",
    }
    training = f"learning rate {recipe.learning_rate:.6g}, {recipe.epochs} epochs, batches of {recipe.batch_size}"
    training += f" x {recipe.gradient_accumulation}, {recipe.lr_scheduler} schedule"
    notes = [*say.of_model(study), f"training: PEFT's configuration holds the adapter only, not {training}."]
    return values, notes
