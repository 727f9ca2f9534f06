"""The settings of a study's training for other tools: one text a tool, and the files that go with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from meshtune.errors import InputError, nearest
from meshtune.export.foreign import axolotl, dataset_info, llamafactory, peft, trl, unsloth
from meshtune.export.foreign.head import comment
from meshtune.export.foreign.training import ForeignStudy
from meshtune.system import yaml_file

TOOLS = ("axolotl", "llamafactory", "trl", "unsloth", "peft")


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
    match tool:
        case "unsloth":
            return {"unsloth_train.py": text}
        case "peft":
            return {"adapter_config.json": text}
        case "llamafactory":
            return {"llamafactory.yaml": text, dataset_info.INFO: dataset_info.write(study)}
        case _:
            return {f"{tool}.yaml": text}


def _written(tool: str, study: ForeignStudy) -> tuple[Mapping[str, Any] | str, list[str]]:
    match tool:
        case "axolotl":
            return axolotl.write(study)
        case "llamafactory":
            return llamafactory.write(study)
        case "trl":
            return trl.write(study)
        case "unsloth":
            return unsloth.write(study)
        case "peft":
            return peft.write(study)
        case _:
            raise InputError(f"unknown tool `{tool}`; there are {', '.join(TOOLS)}.{nearest(tool, TOOLS)}")
