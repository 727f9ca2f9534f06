"""TRL's YAML, as `trl sft --config FILE` reads it: keys of its SFTConfig, ModelConfig and DatasetMixtureConfig; and
PEFT's adapter configuration as JSON, the arguments of `peft.LoraConfig` as an `adapter_config.json` has them.
"""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.training import ForeignStudy, Source
from meshtune.system.text import counted


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The settings, and notes on what is different there."""
    recipe, data = study.recipe, study.data
    shares = data.mixture == "cap"
    notes = say.of_model(study) + say.of_data(study, cut=True, shares=shares, files=False) + say.of_epochs(study)
    notes += say.of_rates(study)
    values = say.base(study)
    values |= {"load_in_8bit": True} if study.model.quantization == "int8" else {}
    values |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if study.model.quantization == "nf4" else {}
    values |= {"dtype": study.model.dtype, "use_peft": True, "lora_r": recipe.rank}
    values |= {"lora_alpha": say.rounded(study, notes, "TRL"), "lora_dropout": recipe.dropout}
    values["lora_target_modules"] = say.targets(study) or "all-linear"
    values |= {"use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
    notes += say.of_start(study)
    values["datasets"] = [_dataset(source, shares) for source in study.sources]
    values["test_split_size"] = study.validation_size
    values |= {"eval_strategy": "epoch", "max_length": study.max_length, "packing": False}
    values |= _loss(study, notes)
    # Below 1 a share of all steps, as Transformers 5 reads it.
    notes.append("warmup_steps: a share of the steps, which Transformers 5 reads; it was `warmup_ratio` before.")
    values |= say.trainer(study, notes, {"warmup_steps": recipe.warmup_ratio})
    values |= {"gradient_checkpointing": recipe.gradient_checkpointing}
    values |= {"seed": recipe.seed, "output_dir": "outputs"}
    return values, notes


def _dataset(source: Source, shares: bool) -> dict[str, Any]:
    if source.path:
        entry: dict[str, Any] = {"path": source.kind, "data_files": source.path, "split": "train"}
    else:
        entry = {"path": source.dataset, **({"name": source.subset} if source.subset else {}), "split": source.split}
    return {**entry, "fraction": source.share} if shares and source.share is not None else entry


def _loss(study: ForeignStudy, notes: list[str]) -> dict[str, Any]:
    """Which tokens are learned, and what the rows must look like for that."""
    data = study.data
    formats = {source.format for source in study.sources}
    conversations = formats & {"messages", "sharegpt"}
    if "sharegpt" in formats:
        notes.append(
            "data: of ShareGPT rows TRL renames the keys but not the roles, which chat templates do not know: rewrite "
            "them as `messages` with `role` (user for human, assistant for gpt) and `content`, as this file expects."
        )
    others = sorted(formats - conversations - {"prompt-completion"})
    if others:
        notes.append(
            f"data: TRL does not read rows of the format {', '.join(others)}: give each row the columns `prompt` and "
            "`completion` (lists of one message each, for the model's chat template; texts to use them as they are)."
        )
    if conversations and conversations != formats:
        notes.append("data: TRL reads rows of one kind at a time: bring all sources into the same columns.")
    if data.template_arguments:
        notes.append(
            f"template_arguments: {', '.join(data.template_arguments)} cannot be written here; TRL reads them from a "
            "column `chat_template_kwargs` of the rows."
        )
    if data.train_on == "everything":
        return {"assistant_only_loss": False, "completion_only_loss": False}
    if not conversations or conversations != formats:
        return {"completion_only_loss": True}
    if data.train_on == "last":
        notes.append("train_on: last cannot be written for conversations; here every answer is learned.")
    notes.append("assistant_only_loss: needs a chat template with generation markers, which TRL has for many models.")
    return {"assistant_only_loss": True}


def write_peft(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
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
    training = f"learning rate {recipe.learning_rate:.6g}, {counted(recipe.epochs, 'epoch')}"
    training += f", batches of {recipe.batch_size} x {recipe.gradient_accumulation}, {recipe.lr_scheduler} schedule"
    others = recipe.later.items()
    training += "".join(f", {name} {value:.6g}" if name != "optimizer" else f", {value}" for name, value in others)
    notes = [*say.of_model(study), f"training: PEFT's configuration holds the adapter only, not {training}."]
    return values, notes
