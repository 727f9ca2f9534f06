"""LLaMA-Factory's YAML: writing one, and reading one.

Key names and defaults as in `src/llamafactory/hparams` and, below them, Transformers' `TrainingArguments`. Data sets go
by names, which the `dataset_info.json` of `dataset_dir` explains; it is written and read here too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from meshtune.errors import InputError
from meshtune.export.foreign import head as say
from meshtune.export.foreign.keys import NO_COUNTERPART, ONE_FILE, Keys, Left, place_of, schedule, share
from meshtune.export.foreign.training import RESPONSE, VERBATIM, ForeignStudy, Source

_MIXTURES = {"cap": "interleave_under", "repeat": "interleave_over"}


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The settings, and notes on what is different there."""
    recipe, data = study.recipe, study.data
    notes = say.of_model(study) + say.of_data(study, cut=True, shares=True, files=True) + say.of_epochs(study)
    notes += say.of_muon(study)
    values = say.base(study)
    values |= _lora(study, notes)
    notes.append(f"data: `{INFO}`, which goes with this file, explains the data sets: start in the folder of both.")
    values |= {"dataset_dir": ".", "dataset": ",".join(_names(study))}
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
    values |= {"eval_dataset": _VALIDATION} if own else {"val_size": study.validation_size}
    values |= say.trainer(study, notes, {"warmup_ratio": recipe.warmup_ratio}, "LLaMA-Factory")
    values |= {"disable_gradient_checkpointing": not recipe.gradient_checkpointing}
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
    values |= {"loraplus_lr_ratio": recipe.lora_plus_ratio} if recipe.lora_plus_ratio != 1 else {}
    if recipe.init_lora_weights == "pissa":
        values |= {"pissa_init": True, "pissa_iter": -1}
    else:
        notes += say.of_start(study)
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
    return {
        "optimizer": keys.optimizer("optim"),
        "epochs": keys.epochs("num_train_epochs", 3),
        "batch_size": keys.whole("per_device_train_batch_size", 8),
        "gradient_accumulation": keys.whole("gradient_accumulation_steps", 1),
        **schedule(keys, "lr_scheduler_type", default="linear", default_warmup=0.0),
        "weight_decay": keys.hyperparameter("weight_decay", "weight_decay", 0.0),
        "max_grad_norm": keys.positive("max_grad_norm", 1.0),
        "neftune_alpha": keys.hyperparameter("neftune_noise_alpha", "neftune_alpha", 0.0),
        "lora_plus_ratio": keys.positive("loraplus_lr_ratio", 1.0),
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
    sources = [source for name in wanted if (source := _source(keys, "dataset", str(name))) is not None]
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
    rows = _source(keys, "eval_dataset", str(own)) if own is not None else None
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


INFO = "dataset_info.json"
_VALIDATION = "validation_rows"  # the name of validation rows that have a file of their own
_COLUMNS = {
    "dolly": {"prompt": "instruction", "query": "context", "response": "response"},
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    **{name: {"prompt": "prompt", "response": response} for name, response in RESPONSE.items()},
}
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "tool",
    "function_tag": "function",
}
# Columns of a whole conversation, by the names under which meshtune reads them.
_BESIDE = {"system": "system", "tools": "tools"}
_SPEAKERS = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "system_tag": ("system",),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "function"),
}
# Parts of an entry that are read whatever they say: where the rows are, and how they are formed.
_USED = ("file_name", "hf_hub_url", "formatting", "ranking")


def _names(study: ForeignStudy) -> list[str]:
    """A name for each source, as `dataset_info.json` has it: no two alike, no comma."""
    found: list[str] = []
    for source in study.sources:
        stem = Path(source.path).name.split(".")[0] if source.path else source.dataset.rpartition("/")[2]
        name = re.sub(r"\W+", "_", stem).strip("_") or "rows"
        free = (
            other for other in (name, *(f"{name}_{n}" for n in range(2, 1000))) if other not in (*found, _VALIDATION)
        )
        found.append(next(free))
    return found


def info(study: ForeignStudy) -> str:
    """The text of the file that goes with the settings."""
    entries = {name: _entry(source) for name, source in zip(_names(study), study.sources, strict=True)}
    if (own := study.validation_rows) is not None:
        entries[_VALIDATION] = _entry(own)
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _entry(source: Source) -> dict[str, Any]:
    entry: dict[str, Any] = {"file_name": source.path} if source.path else {"hf_hub_url": source.dataset}
    if not source.path:
        entry |= {"subset": source.subset} if source.subset else {}
        entry["split"] = source.split
    if source.format == "messages":
        return {**entry, "formatting": "openai", "columns": {"messages": "messages", **_BESIDE}, "tags": _TAGS}
    if source.format == "sharegpt":
        return {**entry, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    return {**entry, "formatting": "alpaca", "columns": _COLUMNS[source.format]}


def _source(keys: Keys, key: str, name: str) -> dict[str, Any] | None:
    """A source of study.yaml from the entry in dataset_info.json; None, and left, where there is none."""
    where = str(keys.take("dataset_dir", "data"))
    if where == "ONLINE":  # then names are ids of the hub
        return {"dataset": name, "format": "alpaca"}
    folder = next((f for start in (keys.folder, Path.cwd()) if (f := start / where).is_dir()), None)
    info: Any = {}
    if folder is not None and (folder / INFO).is_file():
        try:
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{folder / INFO}: is not JSON text: {error}") from error
    entry = info.get(name) if isinstance(info, dict) else None
    if folder is None or not isinstance(entry, dict):
        keys.leave(key, f"no {INFO} in `{where}` explains `{name}`")
        return None
    if isinstance(entry.get("file_name"), str) and not entry.get("hf_hub_url"):
        source: dict[str, Any] = {"path": str((folder / entry["file_name"]).absolute())}
    elif isinstance(entry.get("hf_hub_url"), str):
        source = {"dataset": entry["hf_hub_url"]}
        source |= {part: entry[part] for part in ("subset", "split") if isinstance(entry.get(part), str)}
    else:
        keys.leave(key, f"`{name}` is neither a file nor a data set of the Hugging Face hub")
        return None
    if entry.get("ranking"):
        keys.fault(key, f"`{name}` is preference data (`ranking` in {INFO}); meshtune tunes supervised fine-tunings")
    row_format = _rows_format(keys, key, name, entry)
    _leave_parts(keys, name, entry, source, row_format)
    return {**source, "format": row_format}


def _leave_parts(keys: Keys, name: str, entry: dict[str, Any], source: dict[str, Any], row_format: str) -> None:
    """Leave every part of an entry that says something and is not used."""
    columns, tags = _part(entry, "columns"), _part(entry, "tags")
    shape = {"messages": "messages", **_BESIDE} if row_format in ("messages", "sharegpt") else _COLUMNS["alpaca"]
    unused = {part: value for part, value in entry.items() if part not in ("columns", "tags", *_USED, *source)}
    if entry.get("split") == "train":  # which is also the split of a file
        unused.pop("split", None)
    unused |= {
        f"columns.{part}": value
        for part, value in columns.items()
        if part not in shape or (part in _BESIDE and value != part)
    }
    unused |= {f"tags.{part}": tag for part, tag in tags.items() if tag not in _SPEAKERS.get(part, (tag,))}
    for part, value in unused.items():
        if value not in (None, False, "", [], {}):
            keys.left.append(Left(f"{INFO}: {name}.{part}", value, NO_COUNTERPART))


def _part(entry: dict[str, Any], name: str) -> dict[str, Any]:
    part = entry.get(name)
    return part if isinstance(part, dict) else {}


def _rows_format(keys: Keys, key: str, name: str, entry: dict[str, Any]) -> str:
    columns, tags = _part(entry, "columns"), _part(entry, "tags")
    found: str | None
    if entry.get("formatting", "alpaca") in ("sharegpt", "openai"):
        shape = [
            columns.get("messages", "conversations"),
            tags.get("role_tag", "from"),
            tags.get("content_tag", "value"),
        ]
        shapes = {"messages": ["messages", "role", "content"], "sharegpt": ["conversations", "from", "value"]}
        found = next((ours for ours, known in shapes.items() if known == shape), None)
    else:
        usual = _COLUMNS["alpaca"]  # which are taken where no column is named
        shown = {part: value for part in usual if (value := (columns or usual).get(part))}
        found = next((ours for ours, known in _COLUMNS.items() if known == shown), None)
    if found is None:
        keys.leave(key, f"the columns of `{name}` fit no format of meshtune: it is told from the rows' keys")
    return found or "auto"
