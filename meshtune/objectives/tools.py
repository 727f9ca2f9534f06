"""Other fine-tuning tools: their keys for hyperparameters, and the file of one trial made from the user's own file.

Axolotl, LLaMA-Factory, and scripts with TRL's trainers whose settings come by `TrlParser`, as those of `trl sft` do.
All three train with Transformers' `Trainer`, so evaluation and checkpoints have its keys. Facts as in the sources of
axolotl 0.18, LLaMA-Factory 0.9.6 and TRL 1.16. Nothing of them is imported, and nothing is run here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshtune.config.sections import ToolName
from meshtune.errors import nearest
from meshtune.space.hyperparameters import LORA

Values = Mapping[str, Any]
OF_AN_ADAPTER = (
    *("rank", "alpha", "scale", "step", "dropout", "target_modules", "use_rslora", "use_dora", "init_lora_weights"),
)
_SHARED = {"learning_rate": "learning_rate", "weight_decay": "weight_decay"}
_TRAINER = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}  # Transformers' own
_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        shown: its name. command: that trains with a file. model: the key that every file of it has; "" where none is.
        keys: by hyperparameter; without `target_modules`, which each tool writes in its own way.
        defaults: of hyperparameters that the file does not name.
        validation: whether a file has validation rows. add: what gives it some.
        adapter: whether a file trains an adapter.
    """

    shown: str
    command: tuple[str, ...]
    model: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    validation: Callable[[Values], bool]
    add: str
    adapter: Callable[[Values], bool]


_DEFAULTS: dict[str, Any] = {
    **{"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 5e-5, "weight_decay": 0.0, "warmup_ratio": 0.0},
    **{"lr_scheduler": "linear", "epochs": 3, "batch_size": 8, "target_modules": "all-linear", "use_rslora": False},
    **{"use_dora": False, "init_lora_weights": True},
}
TOOLS: Mapping[ToolName, Tool] = {
    "axolotl": Tool(
        "Axolotl",
        ("axolotl", "train", "{config}"),
        "base_model",
        {
            **_SHARED,
            **{"rank": "lora_r", "alpha": "lora_alpha", "dropout": "lora_dropout", "warmup_ratio": "warmup_ratio"},
            **{"lr_scheduler": "lr_scheduler", "use_rslora": "peft_use_rslora", "use_dora": "peft_use_dora"},
            **{"init_lora_weights": "peft_init_lora_weights", "epochs": "num_epochs", "batch_size": "micro_batch_size"},
        },
        {**_DEFAULTS, "warmup_ratio": 0.03, "lr_scheduler": "cosine", "epochs": 1, "batch_size": 1},
        lambda values: bool(_number(values.get("val_set_size")) or values.get("test_datasets")),
        "`val_set_size: 0.05`, or `test_datasets`",
        lambda values: values.get("adapter") in ("lora", "qlora"),
    ),
    "llamafactory": Tool(
        "LLaMA-Factory",
        ("llamafactory-cli", "train", "{config}"),
        "model_name_or_path",
        {
            **{**_SHARED, **_TRAINER},
            **{"rank": "lora_rank", "alpha": "lora_alpha", "dropout": "lora_dropout", "warmup_ratio": "warmup_ratio"},
            **{"lr_scheduler": "lr_scheduler_type", "use_rslora": "use_rslora", "use_dora": "use_dora"},
        },
        {**_DEFAULTS, "rank": 8, "alpha": 16},
        lambda values: bool(_number(values.get("val_size")) or values.get("eval_dataset")),
        "`val_size: 0.05`, or `eval_dataset`",
        lambda values: values.get("finetuning_type", "lora") == "lora",
    ),
    "trl-script": Tool(
        "TRL",
        ("trl", "sft", "--config", "{config}"),
        "",
        {
            **{**_SHARED, **_TRAINER},
            # Transformers 5 takes a share of the steps by the key of their number.
            **{"rank": "lora_r", "alpha": "lora_alpha", "dropout": "lora_dropout", "warmup_ratio": "warmup_steps"},
            **{"lr_scheduler": "lr_scheduler_type", "use_rslora": "use_rslora", "use_dora": "use_dora"},
        },
        {**_DEFAULTS, "dropout": 0.05, "learning_rate": 2e-5},
        lambda values: values.get("eval_strategy", "no") not in ("no", False, None),
        "`eval_strategy: epoch`, and rows to evaluate on (of `trl sft`: `dataset_test_split`, or `test_split_size` "
        "where it has `datasets`)",
        lambda values: bool(values.get("use_peft")),
    ),
}


def fingerprint(values: Values) -> str:
    """Changes with the settings."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start(name: ToolName, values: Values) -> dict[str, Any]:
    """The hyperparameters that a file trains with, by meshtune's names, and its other single values by their own."""
    tool = TOOLS[name]
    own = {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}
    found = {key: _number(value) for key, value in own.items() if key not in (*LORA, *tool.keys.values())}
    for hyperparameter, default in tool.defaults.items():
        value = _number(values.get(tool.keys.get(hyperparameter, "")))
        kind = LORA[hyperparameter]
        if hyperparameter == "lr_scheduler":
            value = {there: here for here, there in _SCHEDULERS.items()}.get(str(value), value)
        found[hyperparameter] = default if value is None or kind.fault(value) else value
    if name == "llamafactory" and values.get("lora_alpha") is None:
        found["alpha"] = 2 * found["rank"]
    return {**found, "target_modules": _targets(name, values)}


def faults(name: ToolName, values: Values, searched: list[str], *, own_command: bool) -> list[str]:
    """Why a file cannot be tuned, as sentences; `searched`: names of the space."""
    tool, found = TOOLS[name], list[str]()
    if tool.model and tool.model not in values:
        found.append(f"has no `{tool.model}`, so these are no settings of {tool.shown}")
    if not tool.validation(values):
        found.append(f"has no validation data, so there is no eval_loss to minimise: add {tool.add}")
    elif name == "trl-script" and not own_command and (missing := _no_rows_of_trl(values)):
        found.append(f"{missing}, so there is no eval_loss to minimise: add {tool.add}")
    known = {*LORA, *start(name, values)}
    for one in searched:
        if one not in known:
            what = f"`{one}` of the space is no hyperparameter of meshtune, and no key of this file"
            found.append(f"{what}: add it there with its usual value.{nearest(one, known)}")
        elif one in LORA and one not in (*tool.keys, "scale", "step", "target_modules"):
            found.append(f"`{one}` of the space has no key of {tool.shown}")
    adapted = [one for one in searched if one in OF_AN_ADAPTER]
    if adapted and not (tool.adapter(values) or (own_command and name == "trl-script")):
        found.append(f"trains no LoRA adapter, so `{adapted[0]}` of the space would change nothing")
    return found


def _no_rows_of_trl(values: Values) -> str | None:
    """Why `trl sft`, which takes its rows from this file alone, would find none to evaluate on; None: it may find some.

    Which splits a data set has is not known here.
    """
    if values.get("datasets"):
        return None if values.get("test_split_size") else "evaluates, but splits no rows off its `datasets` for that"
    return None if values.get("dataset_name") else "names no rows: it has neither `dataset_name` nor `datasets`"


def settings(
    name: ToolName, values: Values, hyperparameters: Values, *, seed: int, output: str, at: str, adapter: bool
) -> dict[str, Any]:
    """The file of one trial: the user's own, with the trial's values, seed and output folder.

    It evaluates as the user's does, once an epoch where that says nothing, and saves whenever it evaluates, so that the
    exact losses are on disk; of its checkpoints the last and the best stay. Nothing is sent to a hub, nor resumed.
    `adapter`: whether it trains one.
    """
    tool, made = TOOLS[name], copy.deepcopy(dict(values))
    for hyperparameter, value in hyperparameters.items():
        if hyperparameter in OF_AN_ADAPTER and not adapter:
            continue
        if hyperparameter == "target_modules":
            _target(name, made, value)
        elif hyperparameter == "warmup_ratio":
            made = {key: old for key, old in made.items() if key not in ("warmup_steps", "warmup_ratio")}
            made[tool.keys[hyperparameter]] = value
        elif hyperparameter == "lr_scheduler":
            made[tool.keys[hyperparameter]] = _SCHEDULERS.get(value, value)
        else:
            made[tool.keys.get(hyperparameter, hyperparameter)] = value
    every = _evaluation(name, made)
    for key in ("evals_per_epoch", "saves_per_epoch", "eval_steps", "save_steps", "evaluation_strategy"):
        made.pop(key, None)
    made |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if every is not None:
        made |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": every, "save_steps": every}
    made |= {"seed": seed, "output_dir": output, "save_total_limit": 1}
    if at == "best":
        made |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    for key in ("hub_model_id", "resume_from_checkpoint", "auto_resume_from_checkpoints"):
        made.pop(key, None)
    return made | ({"push_to_hub": False} if "push_to_hub" in made else {})


def epochs(name: ToolName, made: Values) -> float | None:
    """The passes over the rows of a trial's file; None where it counts steps."""
    if (_number(made.get("max_steps")) or 0) > 0:
        return None
    key = TOOLS[name].keys["epochs"]
    return float(_number(made.get(key, TOOLS[name].defaults["epochs"])))


def evaluates_within(name: ToolName, values: Values, epochs_of: float) -> bool:
    """Whether a training of so many epochs is evaluated before its end."""
    return _evaluation(name, {**values, TOOLS[name].keys["epochs"]: epochs_of}) is not None or epochs_of > 1


def _evaluation(name: ToolName, made: Values) -> int | float | None:
    """Steps, or the share of all steps, from one evaluation to the next; None: once an epoch."""
    per_epoch = _number(made.get("evals_per_epoch")) if name == "axolotl" else None
    if per_epoch:
        share = 1 / (per_epoch * float(_number(made.get("num_epochs", 1))))
        return share if share < 1 else None  # of a share of 1 Axolotl makes no evaluation at all
    steps = _number(made.get("eval_steps"))
    by_steps = str(made.get("eval_strategy")) == "steps" or (name == "axolotl" and "eval_strategy" not in made)
    if by_steps and not steps:
        steps = _number(made.get("logging_steps")) or 500  # as Transformers does
        return steps if name != "axolotl" or str(made.get("eval_strategy")) == "steps" else None
    return steps if by_steps else None


def _number(value: Any) -> Any:
    """Text such as `1e-4`, which YAML 1.1 does not take for a number, is one to these tools."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _targets(name: ToolName, values: Values) -> str:
    """Target modules as meshtune has them: `all-linear`, or names with commas."""
    if name == "axolotl":
        given = "all-linear" if values.get("lora_target_linear") else values.get("lora_target_modules")
    else:
        given = values.get("lora_target" if name == "llamafactory" else "lora_target_modules")
    names = given if isinstance(given, list) else [] if given is None else str(given).split(",")
    joined = ",".join(str(one).strip() for one in names)
    return "all-linear" if joined in ("", "all") else joined


def _target(name: ToolName, made: dict[str, Any], value: str) -> None:
    every, names = value == "all-linear", value.split(",")
    if name == "llamafactory":
        made["lora_target"] = "all" if every else value
    elif name == "trl-script":
        made["lora_target_modules"] = value if every else names
    else:
        made.pop("lora_target_modules", None)
        made |= {"lora_target_linear": True} if every else {"lora_target_linear": False, "lora_target_modules": names}
