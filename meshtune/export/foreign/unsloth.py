"""A Python script that trains with Unsloth, which has no file of settings.

The script is complete: it loads the rows, makes tokens and labels as meshtune does (loss on the answers and the token
that ends them, too long rows dropped), and trains with TRL's SFTTrainer on Unsloth's model. Settings stand at its top.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshtune.export.foreign import head as say
from meshtune.export.foreign.training import ForeignStudy
from meshtune.training.recipe import DECAY

SCRIPT = Path(__file__).with_name("unsloth_train.py.j2")
# Unsloth takes names, not `all-linear`; these are its own default.
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write(study: ForeignStudy) -> tuple[str, list[str]]:
    """The script without its head, and notes on what is different there."""
    recipe, model = study.recipe, study.model
    notes = say.of_model(study) + say.of_data(study, cut=False, shares=False, files=False) + say.of_epochs(study)
    notes += say.of_rates(study)
    notes += say.of_calls(study)
    modules = say.targets(study)
    if modules is None:
        notes.append(f"target_modules: all-linear is written as {', '.join(MODULES)}, which Llama-like models have.")
    start = recipe.init_lora_weights
    if start not in (True, "gaussian"):
        notes.append(f"init_lora_weights: Unsloth does not take {start}; PEFT's usual start is taken.")
        start = True
    loading: dict[str, Any] = {"model_name": study.model_name, "max_seq_length": study.max_length}
    loading |= {"revision": model.revision} if model.revision else {}
    loading |= {"trust_remote_code": True} if model.trust_remote_code else {}
    loading |= {"dtype": None, "load_in_4bit": model.quantization == "nf4"}
    loading |= {"load_in_8bit": True} if model.quantization == "int8" else {}
    lora: dict[str, Any] = {"r": recipe.rank, "lora_alpha": recipe.alpha, "lora_dropout": recipe.dropout}
    lora |= {"target_modules": modules or MODULES, "bias": "none", "use_rslora": recipe.use_rslora}
    lora |= {"init_lora_weights": start, "use_gradient_checkpointing": recipe.gradient_checkpointing}
    lora |= {"random_state": recipe.seed, **({"use_dora": True} if recipe.use_dora else {})}
    training = say.trainer(study, notes) | {"seed": recipe.seed, "eval_strategy": "epoch", "save_strategy": "epoch"}
    if training.pop("lr_scheduler_kwargs", None):  # the script counts its steps itself
        notes[:] = [note for note in notes if not note.startswith("lr_scheduler_kwargs")]
    training |= {"output_dir": "outputs", "report_to": "none"}
    sources = [
        {"load": (source.kind, source.path), "format": source.format}
        if source.path
        else {"load": (source.dataset, source.subset, source.split), "format": source.format}
        for source in study.sources
    ]
    constants = {
        "MODEL": loading,
        "LORA": lora,
        "TRAINING": training,
        "SOURCES": sources,
        "VALIDATION": study.validation_size,
        "MAX_LENGTH": study.max_length,
        "WARMUP_RATIO": recipe.warmup_ratio,
        "DECAY": DECAY if recipe.lr_scheduler == "wsd" else None,
        "PROMPT": study.prompt,
        "TRAIN_ON": study.data.train_on,
        "TEMPLATE_ARGUMENTS": dict(study.data.template_arguments),
    }
    settings = "".join(f"{name} = {_literal(value)}\n" for name, value in constants.items())
    # Without Jinja: `export --config` needs nothing beyond what every installation has.
    return SCRIPT.read_text(encoding="utf-8").replace("{{ settings }}", settings), notes


def _literal(value: Any) -> str:
    """A value as Python writes it, an entry a line."""
    match value:
        case dict() if value:
            return "{\n" + "".join(f"    {key!r}: {entry!r},\n" for key, entry in value.items()) + "}"
        case list() if value:
            return "[\n" + "".join(f"    {entry!r},\n" for entry in value) + "]"
        case _:
            return repr(value)
