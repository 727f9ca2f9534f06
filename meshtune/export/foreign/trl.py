"""TRL's YAML, as `trl sft --config FILE` reads it: keys of its SFTConfig, ModelConfig and DatasetMixtureConfig."""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.training import ForeignStudy, Source


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The settings, and notes on what is different there."""
    recipe, data = study.recipe, study.data
    shares = data.mixture == "cap"
    notes = say.of_model(study) + say.of_data(study, cut=True, shares=shares, files=False) + say.of_epochs(study)
    values: dict[str, Any] = {"model_name_or_path": study.model_name}
    values |= {} if study.model.revision is None else {"model_revision": study.model.revision}
    values |= {"trust_remote_code": True} if study.model.trust_remote_code else {}
    values |= {"load_in_8bit": True} if study.model.quantization == "int8" else {}
    values |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if study.model.quantization == "nf4" else {}
    values |= {"dtype": study.model.dtype, "use_peft": True, "lora_r": recipe.rank}
    values |= {"lora_alpha": say.rounded(study, notes, "TRL"), "lora_dropout": recipe.dropout}
    values["lora_target_modules"] = say.targets(study) or "all-linear"
    values |= {"use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
    if recipe.init_lora_weights is not True:
        notes.append(f"init_lora_weights: {recipe.init_lora_weights} has no key here; PEFT's usual start is taken.")
    values["datasets"] = [_dataset(source, shares) for source in study.sources]
    values["test_split_size"] = study.validation_size
    values |= {"eval_strategy": "epoch", "max_length": study.max_length, "packing": False}
    values |= _loss(study, notes)
    values |= {"per_device_train_batch_size": recipe.batch_size}
    values |= {"gradient_accumulation_steps": recipe.gradient_accumulation, "num_train_epochs": recipe.epochs}
    values |= {"optim": "adamw_torch", "learning_rate": recipe.learning_rate}
    # Below 1 a share of all steps, as Transformers 5 reads it.
    values |= {"lr_scheduler_type": say.scheduler(study), "warmup_steps": recipe.warmup_ratio}
    notes.append("warmup_steps: a share of the steps, which Transformers 5 reads; it was `warmup_ratio` before.")
    values |= {"weight_decay": recipe.weight_decay, "max_grad_norm": recipe.max_grad_norm}
    bf16, fp16 = say.mixed_precision(study, notes)
    values |= {"bf16": bf16, "fp16": fp16, "gradient_checkpointing": recipe.gradient_checkpointing}
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
