"""The settings of a study's training for other tools, one text a tool and the files that go with it; and the YAML of
Axolotl or LLaMA-Factory, which their keys distinguish, read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, nearest
from meshtune.export.foreign import axolotl, llamafactory, trl, unsloth
from meshtune.export.foreign.head import comment
from meshtune.export.foreign.keys import Keys, Left
from meshtune.export.foreign.training import ForeignStudy
from meshtune.system import yaml_file

_WRITERS: Mapping[str, Callable[[ForeignStudy], tuple[Mapping[str, Any] | str, list[str]]]] = {
    "axolotl": axolotl.write,
    "llamafactory": llamafactory.write,
    "trl": trl.write,
    "unsloth": unsloth.write,
    "peft": trl.write_peft,
}
TOOLS = tuple(_WRITERS)
_FILES = {"unsloth": "unsloth_train.py", "peft": "adapter_config.json"}  # of the others it is the tool's name


def settings(tool: str, study: ForeignStudy) -> str:
    """The settings of a training in a tool's own format.

    The head says where they come from and what is different there; only PEFT's JSON knows no comments.

    Raises:
        InputError: an unknown tool.
    """
    written, notes = _written(tool, study)
    if tool == "peft":
        return json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    body = written if isinstance(written, str) else yaml_file.dump(written)
    return f"{comment(study, notes)}\n{body}"


def notes(tool: str, study: ForeignStudy) -> list[str]:
    """What is different there, or not carried over: the lines of the head. Raises InputError: an unknown tool."""
    return _written(tool, study)[1]


def files(tool: str, study: ForeignStudy) -> dict[str, str]:
    """Name and text of every file that a tool needs, the settings first. Raises InputError: an unknown tool."""
    text = settings(tool, study)
    found = {_FILES.get(tool, f"{tool}.yaml"): text}
    return {**found, llamafactory.INFO: llamafactory.info(study)} if tool == "llamafactory" else found


def _written(tool: str, study: ForeignStudy) -> tuple[Mapping[str, Any] | str, list[str]]:
    if tool not in _WRITERS:
        raise InputError(f"unknown tool `{tool}`; there are {', '.join(TOOLS)}.{nearest(tool, TOOLS)}")
    return _WRITERS[tool](study)


@dataclass(frozen=True)
class Read:
    """What a file says, in meshtune's words.

    Attributes:
        tool: `axolotl` or `llamafactory`.
        values: sections of study.yaml: `model`, `data`, `training`, `baseline` (its LoRA values) and, where it is
            given, `seed`. What the file does not name has the tool's own default.
        left: what is not carried over, and why.
    """

    tool: str
    values: Mapping[str, Any]
    left: tuple[Left, ...]


_AS_A_PROGRAM = (
    "write a study.yaml with `objective: {command: [python, train.py, ..]}` and its space"
    ' (page "Come from another tool"), or its LoRA values into that of `meshtune init`'
)


def read(path: Path, *, data: bool = True) -> Read:
    """Read a file.

    Args:
        data: whether its rows are needed; without, rows that cannot be found are no fault.

    Raises:
        InputError: it cannot be read, is of neither tool, is no supervised LoRA fine-tuning, or holds a value that
            meshtune cannot train with: all faults at once, with their lines.
    """
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "there is no such file"
        raise InputError(Fault(f"{wrong}; give the YAML of an Axolotl or LLaMA-Factory training", path))
    if path.suffix in (".py", ".ipynb"):
        raise InputError(Fault(f"is a program, no file of settings: {_AS_A_PROGRAM}", path))
    document = yaml_file.read(path)
    tool = _tool(document.values)
    if tool is None:
        what = (
            "is neither Axolotl's (no `base_model`) nor LLaMA-Factory's (no `model_name_or_path` with "
            "`finetuning_type` or `stage`): a TRL script's is tuned by `--keep-tool`, nothing else is read"
        )
        if {"program", "parameters"} <= document.values.keys():
            what = f"is a sweep of Weights & Biases, which is not read: {_AS_A_PROGRAM}"
        raise InputError(Fault(what, path, 1))
    keys = Keys(document, path)
    values = axolotl.read(keys) if tool == "axolotl" else llamafactory.read(keys)
    if not values["data"]["sources"]:
        del values["data"]["sources"]
        if data:
            key = "datasets" if tool == "axolotl" else "dataset"
            keys.fault(key, "names no rows that can be found: give them with `--data FILE`")
    seed = keys.take("seed")
    if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31:
        values["seed"] = seed
    elif seed is not None:
        keys.leave("seed", "must be a whole number from 0: 0 is taken")
    keys.rest()
    if keys.faults:
        raise InputError(sorted(keys.faults, key=lambda fault: fault.line or 0))
    values["data"] = {key: value for key, value in values["data"].items() if value is not None}
    return Read(tool, values, tuple(keys.left))


def _tool(values: Mapping[str, Any]) -> str | None:
    if "base_model" in values:
        return "axolotl"
    return "llamafactory" if "model_name_or_path" in values and {"finetuning_type", "stage"} & set(values) else None
