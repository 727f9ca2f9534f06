"""LLaMA-Factory's YAML: writing one, and reading one.

Key names and defaults as in `src/llamafactory/hparams` and, below them, Transformers' `TrainingArguments`. Data sets go
by names, which the `dataset_info.json` of `dataset_dir` explains (see `foreign.dataset_info`).
"""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import dataset_info
from meshtune.export.foreign import head as say
from meshtune.export.foreign.dataset_info import INFO
from meshtune.export.foreign.keys import Keys, place_of, schedule, share
from meshtune.export.foreign.reasons import ONE_FILE
from meshtune.export.foreign.training import VERBATIM, ForeignStudy

_MIXTURES = {"cap": "interleave_under", "repeat": "interleave_over"}


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The settings, and notes on what is different there."""
    recipe, data = study.recipe, study.data
    notes = say.of_model(study) + say.of_data(study, cut=True, shares=True, files=True) + say.of_epochs(study)
    values: dict[str, Any] = {"model_name_or_path": study.model_name}
    values |= {} if study.model.revision is None else {"model_revision": study.model.revision}
    values |= {"trust_remote_code": True} if study.model.trust_remote_code else {}
    values |= _lora(study, notes)
    notes.append(f"data: `{INFO}`, which goes with this file, explains the data sets: start in the folder of both.")
    values |= {"dataset_dir": ".", "dataset": ",".join(dataset_info.names(study))}
    shares = [source.share for source in study.sources]
    if all(share is not None for share in shares) and data.mixture in _MIXTURES and len(shares) > 1:
        values |= {"mix_strategy": _MIXTURES[data.mixture], "interleave_probs": ",".join(map(str, shares))}
        notes.append("data: the sources are drawn by chance with the shares of the study, which mixed them exactly.")
    if any(source.format == "sharegpt" for source in study.sources):
        notes.append(
            f"data: where ShareGPT rows have `system` or `tools`, add these to the `columns` of `{INFO}`: this tool "
            "fails on a column that the rows lack, so they are not named there."
        )
    values |= _prompt(study, notes)
    values |= {"cutoff_len": study.max_length, "packing": False}
    values |= {"train_on_prompt": True} if data.train_on == "everything" else {}
    values |= {"mask_history": True} if data.train_on == "last" else {}
    own = study.validation_rows is not None
    values |= {"eval_dataset": dataset_info.VALIDATION} if own else {"val_size": study.validation_size}
    values |= {"per_device_train_batch_size": recipe.batch_size}
    values |= {"gradient_accumulation_steps": recipe.gradient_accumulation, "num_train_epochs": recipe.epochs}
    values |= {"optim": "adamw_torch", "learning_rate": recipe.learning_rate}
    values |= {"lr_scheduler_type": say.scheduler(study), "warmup_ratio": recipe.warmup_ratio}
    values |= {"weight_decay": recipe.weight_decay, "max_grad_norm": recipe.max_grad_norm}
    bf16, fp16 = say.mixed_precision(study, notes)
    values |= {"bf16": bf16, "fp16": fp16, "disable_gradient_checkpointing": not recipe.gradient_checkpointing}
    values |= {"seed": recipe.seed, "eval_strategy": "epoch", "save_strategy": "epoch", "output_dir": "outputs"}
    return values, notes


def _lora(study: ForeignStudy, notes: list[str]) -> dict[str, Any]:
    recipe = study.recipe
    values: dict[str, Any] = {"stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": recipe.rank}
    values |= {"lora_alpha": say.rounded(study, notes, "LLaMA-Factory"), "lora_dropout": recipe.dropout}
    bits = {"int8": 8, "nf4": 4}.get(study.model.quantization or "")
    values |= {"quantization_bit": bits, "quantization_method": "bnb", "double_quantization": False} if bits else {}
    modules = say.targets(study)
    values["lora_target"] = "all" if modules is None else ",".join(modules)
    values |= {"use_rslora": True} if recipe.use_rslora else {}
    values |= {"use_dora": True} if recipe.use_dora else {}
    if recipe.init_lora_weights == "pissa":
        values |= {"pissa_init": True, "pissa_iter": -1}
    elif recipe.init_lora_weights is not True:
        notes.append(f"init_lora_weights: {recipe.init_lora_weights} has no key here; PEFT's usual start is taken.")
    return values


def _prompt(study: ForeignStudy, notes: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    formats = {source.format for source in study.sources}
    if formats <= set(VERBATIM):
        values["template"] = "empty"
    elif study.prompt == "alpaca":
        values["template"] = "alpaca"
        notes.append(
            "prompt: the Alpaca template of this tool has no heading for the input, which follows the instruction."
        )
    else:  # without a template it reads the model's own
        notes.append(
            "prompt: without `template` the model's own is read, as in the study; instruction and input are joined by "
            "one line break here, by a blank line in meshtune."
        )
    if len(formats & set(VERBATIM)) < len(formats) and formats & set(VERBATIM):
        notes.append("prompt: meshtune uses prompts of prompt-completion rows as they are; here they get the template.")
    arguments = dict(study.data.template_arguments)
    if isinstance(arguments.get("enable_thinking"), bool):
        values["enable_thinking"] = arguments.pop("enable_thinking")
    if arguments:
        notes.append(f"template_arguments: {', '.join(arguments)} cannot be written here.")
    return values


def read(keys: Keys) -> dict[str, Any]:
    """The values of study.yaml; faults and what is left are noted in `keys`."""
    if (stage := keys.take("stage", "sft")) != "sft":
        keys.fault("stage", f"is {stage}; meshtune tunes supervised fine-tunings: `stage: sft` is needed")
    if (kind := keys.take("finetuning_type", "lora")) != "lora":
        keys.fault("finetuning_type", f"is {kind}; meshtune tunes LoRA: `finetuning_type: lora` is needed")
    keys.take("do_train")
    values: dict[str, Any] = {"model": {"name": place_of(keys.text("model_name_or_path"), keys.folder)}}
    revision = keys.take("model_revision", "main")
    values["model"] |= {"revision": str(revision)} if revision != "main" else {}
    values["model"] |= _quantization(keys)
    rank = keys.hyperparameter("lora_rank", "rank", 8)
    values["baseline"] = {
        "rank": rank,
        "alpha": keys.hyperparameter("lora_alpha", "alpha", 2 * rank if isinstance(rank, int) else 16),
        "dropout": keys.hyperparameter("lora_dropout", "dropout", 0.0),
        "learning_rate": keys.hyperparameter("learning_rate", "learning_rate", 5e-5),
    }
    values["training"] = _training(keys)
    values["data"] = _data(keys)
    return values


def _quantization(keys: Keys) -> dict[str, Any]:
    bits, method = keys.take("quantization_bit"), str(keys.take("quantization_method", "bnb"))
    if bits is None:
        return {}
    found = {"4": "nf4", "8": "int8"}.get(str(bits))
    if found is None or method not in ("bnb", "bitsandbytes"):
        keys.leave("quantization_bit", f"with {method}, where bitsandbytes' int8 and nf4 are what there is here")
        return {}
    if str(kind := keys.take("quantization_type", "nf4")) != "nf4" and found == "nf4":
        keys.leave("quantization_type", f"is {kind}: nf4 is taken")
    return {"quantization": found}


def _training(keys: Keys) -> dict[str, Any]:
    target = keys.take("lora_target", "all")
    modules = [name.strip() for name in str(target).split(",") if name.strip()]
    pissa, steps = keys.take("pissa_init"), keys.take("pissa_iter", 16)
    if pissa and steps != -1:
        keys.leave("pissa_init", "PiSSA is computed exactly here, not by iterations")
    keys.optimizer("optim")
    return {
        "epochs": keys.epochs("num_train_epochs", 3),
        "batch_size": keys.whole("per_device_train_batch_size", 8),
        "gradient_accumulation": keys.whole("gradient_accumulation_steps", 1),
        **schedule(keys, "lr_scheduler_type", default="linear", default_warmup=0.0),
        "weight_decay": keys.hyperparameter("weight_decay", "weight_decay", 0.0),
        "max_grad_norm": keys.positive("max_grad_norm", 1.0),
        "target_modules": "all-linear" if modules == ["all"] or not modules else modules,
        "use_rslora": bool(keys.take("use_rslora")),
        "use_dora": bool(keys.take("use_dora")),
        "init_lora_weights": "pissa" if pissa else True,
        "gradient_checkpointing": not keys.take("disable_gradient_checkpointing", False),
        "precision": keys.precision(("bf16", "pure_bf16"), ("fp16",), default="auto"),
    }


def _data(keys: Keys) -> dict[str, Any]:
    listed = keys.take("dataset", "")
    wanted = listed if isinstance(listed, list) else [name.strip() for name in str(listed).split(",") if name.strip()]
    sources = [source for name in wanted if (source := dataset_info.read(keys, "dataset", str(name))) is not None]
    values: dict[str, Any] = {"sources": sources, "mixture": "union", **_mixture(keys, sources, len(wanted))}
    template = keys.take("template")
    formats = {source["format"] for source in sources}
    values["prompt"] = "alpaca" if template == "alpaca" else "chat" if formats - set(VERBATIM) else "auto"
    if template not in (None, "alpaca", "empty"):
        keys.leave("template", "the chat template that comes with the model is used: see that it is the same")
    if isinstance(thinking := keys.take("enable_thinking"), bool):
        values["template_arguments"] = {"enable_thinking": thinking}
    values["max_length"] = keys.whole("cutoff_len", 2048)
    values["train_on"] = (
        "everything" if keys.take("train_on_prompt") else "last" if keys.take("mask_history") else "all"
    )
    if keys.given("max_samples") and len(wanted) == 1:
        values["rows"] = keys.whole("max_samples", 1)
    elif keys.given("max_samples"):
        keys.leave("max_samples", "limits each data set there; `rows` limits all of them together")
    values["validation"] = share(keys, "val_size")
    own = keys.take("eval_dataset")
    rows = dataset_info.read(keys, "eval_dataset", str(own)) if own is not None else None
    if rows is not None and "path" in rows:
        values["validation"] = rows
    elif own is not None:
        keys.leave("eval_dataset", ONE_FILE)
    return values


def _mixture(keys: Keys, sources: list[dict[str, Any]], wanted: int) -> dict[str, Any]:
    """The mixture; shares are written into the sources."""
    strategy, probabilities = keys.take("mix_strategy", "concat"), keys.take("interleave_probs")
    try:
        shares = [float(text) for text in str(probabilities or "").split(",") if text.strip()]
    except ValueError:
        keys.fault("interleave_probs", f"`{probabilities}` is not a list of numbers with commas between")
        return {}
    mixture = {name: ours for ours, name in _MIXTURES.items()}.get(str(strategy))
    fits = (
        mixture and len(shares) == wanted == len(sources) and all(s > 0 for s in shares) and abs(sum(shares) - 1) < 1e-6
    )
    if fits:
        for source, part in zip(sources, shares, strict=True):
            source["share"] = part
        return {"mixture": mixture}
    for key in ("mix_strategy", "interleave_probs"):
        if keys.given(key) and strategy != "concat":
            keys.leave(key, "needs shares of all its data sets that add up to 1: all rows are taken")
    return {}
