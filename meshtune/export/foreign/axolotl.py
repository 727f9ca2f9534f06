"""Axolotl's YAML: writing one, and reading one.

Key names and defaults as in its schemas (`src/axolotl/utils/schemas`). Its `alpaca` rows have the Stanford template,
its `chat_template` rows are conversations.
"""

from __future__ import annotations

from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.keys import ONE_FILE, Keys, place_of, scalars, schedule, share
from meshtune.export.foreign.training import RESPONSE, VERBATIM, ForeignStudy, Source

_STANFORD = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}"
    "\n\n### Response:\n"
)
_STANFORD_BARE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)

# Rows with a prompt of the user's own, by their fields: the format here, and the prompt that it must have.
_OWN_TYPES = {
    "instruction/context/response": ("dolly", _STANFORD),
    "instruction/input/output": ("alpaca", _STANFORD),
    "prompt//completion": ("prompt-completion", "{instruction}"),
    "prompt//response": ("prompt-response", "{instruction}"),
}

KEEP = " (or `--keep-tool`, with which Axolotl trains itself)"

# Who speaks in ShareGPT rows; by default Axolotl knows human and gpt, and no tools.
_ROLES = {
    "system": ["system"],
    "user": ["human", "user"],
    "assistant": ["gpt", "assistant", "model", "function_call"],
    "tool": ["tool", "observation", "function_response"],
}


def write(study: ForeignStudy) -> tuple[dict[str, Any], list[str]]:
    """The settings, and notes on what is different there."""
    recipe = study.recipe
    notes = say.of_model(study) + say.of_data(study, cut=False, shares=False, files=True) + say.of_epochs(study)
    notes += say.of_muon(study)
    values: dict[str, Any] = {"base_model": study.model_name}
    if study.model.revision is not None:
        values["revision_of_model"] = study.model.revision
    if study.model.trust_remote_code:
        values["trust_remote_code"] = True
    values |= _lora(study, notes)
    values["datasets"] = [_dataset(source) for source in study.sources]
    values |= _prompt(study, notes)
    own = study.validation_rows
    values |= {"val_set_size": study.validation_size} if own is None else {"test_datasets": [_dataset(own)]}
    values |= {"sequence_len": study.max_length, "excess_length_strategy": "drop", "sample_packing": False}
    values |= {"train_on_inputs": study.data.train_on == "everything"}
    values |= {"micro_batch_size": recipe.batch_size, "gradient_accumulation_steps": recipe.gradient_accumulation}
    values |= {
        "num_epochs": recipe.epochs,
        "optimizer": say.OPTIMIZERS[recipe.optimizer],
        "learning_rate": recipe.learning_rate,
    }
    values |= {**say.scheduler(study, notes, "lr_scheduler"), "warmup_ratio": recipe.warmup_ratio}
    values |= {"weight_decay": recipe.weight_decay, "max_grad_norm": recipe.max_grad_norm}
    values |= {"neftune_noise_alpha": recipe.neftune_alpha} if recipe.neftune_alpha else {}
    values |= {"loraplus_lr_ratio": recipe.lora_plus_ratio} if recipe.lora_plus_ratio != 1 else {}
    bf16: bool | str = "auto" if recipe.precision == "auto" else recipe.precision == "bfloat16"
    values |= {"bf16": bf16, "fp16": recipe.precision == "float16"}
    values |= {"gradient_checkpointing": recipe.gradient_checkpointing, "seed": recipe.seed}
    values |= {"evals_per_epoch": 1, "saves_per_epoch": 1, "output_dir": "./outputs"}
    return values, notes


def _lora(study: ForeignStudy, notes: list[str]) -> dict[str, Any]:
    recipe, modules = study.recipe, say.targets(study)
    int8, nf4 = (study.model.quantization == kind for kind in ("int8", "nf4"))
    values: dict[str, Any] = {"load_in_8bit": int8, "load_in_4bit": nf4, "adapter": "qlora" if nf4 else "lora"}
    values["lora_r"] = recipe.rank
    values |= {"lora_alpha": say.rounded(study, notes, "Axolotl"), "lora_dropout": recipe.dropout}
    values |= {"lora_target_linear": True} if modules is None else {"lora_target_modules": modules}
    values |= {"peft_use_rslora": True} if recipe.use_rslora else {}
    values |= {"peft_use_dora": True} if recipe.use_dora else {}
    if recipe.init_lora_weights is not True:
        values["peft_init_lora_weights"] = recipe.init_lora_weights
    return values


def _prompt(study: ForeignStudy, notes: list[str]) -> dict[str, Any]:
    """Keys of the chat template, with notes where rows are asked in another way."""
    data = study.data
    if data.train_on == "last" and study.turns_differ:
        notes.append("train_on: last cannot be written; here every answer of a conversation is learned.")
    notes += say.of_calls(study)
    if study.prompt != "chat":
        return {}
    if any(source.format in ("alpaca", "dolly") for source in study.sources):
        notes.append(
            "prompt: the study asked with the model's chat template; rows of an instruction are asked with the "
            "Alpaca template here. To have the same, turn each row into `messages` (one user turn: instruction, "
            "blank line, input; one assistant turn) and write `type: chat_template`."
        )
    arguments = {"chat_template_kwargs": dict(data.template_arguments)} if data.template_arguments else {}
    return {"chat_template": "tokenizer_default", **arguments}


def _dataset(source: Source) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": source.path or source.dataset}
    if source.path:
        entry["ds_type"] = source.kind
    else:
        entry |= {"name": source.subset} if source.subset else {}
        entry["split"] = source.split
    conversation: dict[str, Any] = {"type": "chat_template", "roles_to_train": ["assistant"], "train_on_eos": "turn"}
    match source.format:
        case "messages":
            return {**entry, **conversation, "field_messages": "messages"}
        case "sharegpt":
            fields = {"role": "from", "content": "value"}
            roles = {role: list(names) for role, names in _ROLES.items()}  # its own, else the YAML has an anchor
            conversation |= {"field_messages": "conversations", "message_property_mappings": fields, "roles": roles}
            return {**entry, **conversation}
        case "dolly":
            fields = {"field_instruction": "instruction", "field_input": "context", "field_output": "response"}
            return {**entry, "type": {**fields, "format": _STANFORD, "no_input_format": _STANFORD_BARE}}
        case name if name in VERBATIM:
            fields = {"field_instruction": "prompt", "field_output": RESPONSE[name]}
            return {**entry, "type": {**fields, "format": "{instruction}", "no_input_format": "{instruction}"}}
        case _:
            return {**entry, "type": "alpaca"}


def read(keys: Keys) -> dict[str, Any]:
    """The values of study.yaml; faults and what is left are noted in `keys`."""
    if keys.take("rl"):
        keys.fault("rl", f"is preference optimization; meshtune tunes supervised LoRA fine-tunings{KEEP}")
    adapter = keys.take("adapter")
    if adapter not in ("lora", "qlora"):
        keys.fault("adapter", f"is {adapter or 'not given'}; meshtune tunes LoRA: `adapter: lora` is needed{KEEP}")
    values: dict[str, Any] = {"model": {"name": place_of(keys.text("base_model"), keys.folder)}}
    revision = keys.take("revision_of_model", keys.take("model_revision"))  # two names of one key
    values["model"] |= {"revision": str(revision)} if revision is not None else {}
    int8, nf4 = keys.take("load_in_8bit"), keys.take("load_in_4bit")
    if nf4 or adapter == "qlora":
        values["model"]["quantization"] = "nf4"
    elif int8:
        values["model"]["quantization"] = "int8"
    needed = adapter in ("lora", "qlora")  # else they are no faults of their own
    values["baseline"] = {
        "rank": keys.hyperparameter("lora_r", "rank", None if needed else 16),
        "alpha": keys.hyperparameter("lora_alpha", "alpha", None if needed else 32),
        "dropout": keys.hyperparameter("lora_dropout", "dropout", 0.0),
        "learning_rate": keys.hyperparameter("learning_rate", "learning_rate", None),
    }
    values["training"] = _training(keys)
    values["data"] = _data(keys)
    return values


def _training(keys: Keys) -> dict[str, Any]:
    return {
        "optimizer": keys.optimizer("optimizer"),
        "epochs": keys.epochs("num_epochs", 1),
        "batch_size": keys.whole("micro_batch_size", 1),
        "gradient_accumulation": keys.whole("gradient_accumulation_steps", 1),
        **schedule(keys, "lr_scheduler", default="cosine", default_warmup=0.03),
        "weight_decay": keys.hyperparameter("weight_decay", "weight_decay", 0.0),
        "max_grad_norm": keys.positive("max_grad_norm", 1.0),
        "neftune_alpha": keys.hyperparameter("neftune_noise_alpha", "neftune_alpha", 0.0),
        "lora_plus_ratio": keys.positive("loraplus_lr_ratio", 1.0),
        "target_modules": _targets(keys),
        "use_rslora": bool(keys.take("peft_use_rslora")),
        "use_dora": bool(keys.take("peft_use_dora")),
        "init_lora_weights": keys.start_weights("peft_init_lora_weights"),
        "gradient_checkpointing": bool(keys.take("gradient_checkpointing")),
        "precision": keys.precision(("bf16", "bfloat16"), ("fp16", "float16"), default="auto"),
    }


def _targets(keys: Keys) -> str | list[str]:
    every, modules = keys.take("lora_target_linear"), keys.take("lora_target_modules")
    if every or modules == "all-linear":
        return "all-linear"
    names = [modules] if isinstance(modules, str) else modules
    if isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names):
        return names
    if modules is not None:
        keys.leave("lora_target_modules", "must be names of modules; all linear ones are taken")
    return "all-linear"


def _data(keys: Keys) -> dict[str, Any]:
    entries = keys.take("datasets")
    sources, prompts = [], set()
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if not _is_source(entry):
            keys.fault(("datasets", index), "must be a mapping with a `path`")
            continue
        source, prompt = _source(keys, "datasets", index, entry)
        sources.append(source)
        prompts.add(prompt)
    template = keys.take("chat_template")
    values: dict[str, Any] = {"sources": sources, "mixture": "union"}
    values["prompt"] = next(iter(prompts)) if len(prompts) == 1 else "auto"
    if {"alpaca", "chat"} <= prompts:
        keys.leave("datasets", "instructions and conversations are asked in one way here: `prompt: auto`")
    if template == "alpaca" and values["prompt"] == "chat":
        values["prompt"] = "alpaca"
    elif template is not None and template != "tokenizer_default":
        keys.leave("chat_template", "the chat template that comes with the model is used: see that it is the same")
    arguments = keys.take("chat_template_kwargs")
    if arguments:
        values["template_arguments"] = scalars(keys, "chat_template_kwargs", arguments)
    values["max_length"] = keys.whole("sequence_len", 512)
    strategy = keys.take("excess_length_strategy")
    if strategy not in (None, "drop"):
        keys.leave("excess_length_strategy", "rows that are too long are dropped")
    values["train_on"] = "everything" if keys.take("train_on_inputs") else "all"
    values["validation"] = share(keys, "val_set_size")
    own = keys.take("test_datasets")
    entries = own if isinstance(own, list) else []
    rows = [_source(keys, "test_datasets", i, entry)[0] for i, entry in enumerate(entries) if _is_source(entry)]
    if len(rows) == 1 and "path" in rows[0]:
        values["validation"] = rows[0]
    elif own is not None:
        keys.leave("test_datasets", ONE_FILE)
    return values


def _is_source(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("path"), str)


def _source(keys: Keys, key: str, index: int, entry: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A source of study.yaml, and the prompt that its rows ask for."""
    name = entry["path"]
    used_files: tuple[str, ...] = ()
    files = entry.get("data_files")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if name in ("json", "csv", "parquet") and isinstance(files, str):  # then `path` is how the file is read
        name, used_files = files, ("data_files",)
    if "://" in name:
        keys.fault((key, index, "path"), f"`{name}`: give a file, or a data set of the Hugging Face hub")
    place = place_of(name, keys.folder)
    local = bool(used_files) or place != name or place.startswith("/")
    source: dict[str, Any] = {"path" if local else "dataset": place}
    if not local:
        source |= {"subset": entry["name"]} if isinstance(entry.get("name"), str) else {}
        source |= {"split": entry["split"]} if isinstance(entry.get("split"), str) else {}
    row_format, prompt, used = _format(entry)
    if row_format == "auto":
        keys.leave((key, index, "type"), "no format of meshtune by this name: it is told from the rows' keys")
    known = {"path", "type", "split", "name", "ds_type", *used, *used_files}
    for part in entry:
        if part not in known and entry[part] not in (None, False, "", []):
            keys.leave((key, index, part), "no counterpart in a source of study.yaml")
    return {**source, "format": row_format}, prompt


def _format(entry: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """The rows' format, the prompt and the keys that said so."""
    kind = entry.get("type")
    if kind == "alpaca":
        return "alpaca", "alpaca", ()
    if isinstance(kind, dict):
        fields = "/".join(str(kind.get(f"field_{name}", "")) for name in ("instruction", "input", "output"))
        row_format, template = _OWN_TYPES.get(fields, ("auto", ""))
        # A prompt of the user's own is not known here: then the whole type is left.
        return ("auto", "auto", ()) if kind.get("format") != template else (row_format, _prompt_of(row_format), ())
    if kind == "chat_template":
        row_format, used = _conversation(entry)
        return row_format, "chat", used
    if isinstance(kind, str) and kind.startswith("sharegpt"):
        return "sharegpt", "chat", ("conversation",)
    return "auto", "auto", ()


def _prompt_of(row_format: str) -> str:
    return "auto" if row_format in VERBATIM else "alpaca"


def _conversation(entry: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The format of a source of the type `chat_template`, and the keys that said so."""
    mapping = entry.get("message_property_mappings")
    mapping = mapping if isinstance(mapping, dict) else {}
    role = mapping.get("role", entry.get("message_field_role", "role"))
    content = mapping.get("content", entry.get("message_field_content", "content"))
    shape = f"{entry.get('field_messages', 'messages')}/{role}/{content}"
    row_format = {"messages/role/content": "messages", "conversations/from/value": "sharegpt"}.get(shape, "auto")
    usual = {
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
        "chat_template": "tokenizer_default",
        "roles": _ROLES,
    }
    shaping = ("field_messages", "message_property_mappings", "message_field_role", "message_field_content")
    used = [key for key, value in usual.items() if entry.get(key) == value]
    return row_format, (*used, *(shaping if row_format != "auto" else ()))
