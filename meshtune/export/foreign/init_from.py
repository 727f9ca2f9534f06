"""`meshtune init --from FILE`: a study.yaml that starts where another tool's settings are.

Their LoRA values become the baseline, their model, data and training the study's. The file is `init`'s own, with the
values put in the places of its keys, so that everything stays explained. What cannot be carried over stands at its
head.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshtune.config import file
from meshtune.config.template import DEFAULT, TemplateValues, given, text, write
from meshtune.export import foreign
from meshtune.export.foreign import Left, Read
from meshtune.system import yaml_file

TOOLS = {"axolotl": "Axolotl", "llamafactory": "LLaMA-Factory"}
_OF_RECIPE = {  # these have a place in `TemplateValues`; all others are put into the text
    "data": ("mixture", "rows", "max_length", "prompt"),
    "training": ("epochs", "batch_size", "gradient_accumulation", "target_modules", "precision"),
}


def init_from(path: Path, folder: Path, model: str | None, data: Path | None) -> tuple[Path, tuple[Left, ...]]:
    """Write `study.yaml` into a folder; returns its path, and what of the file could not be carried over.

    Args:
        path: the YAML of an Axolotl or LLaMA-Factory training. model, data: in place of the file's.

    Raises:
        InputError: there is a study.yaml already, or as `text_from`.
        StorageError: the folder cannot be written.
    """
    own_model, sources = given(model, data)
    written, left = text_from(path, folder, own_model, sources)
    return write(folder, written), left


def text_from(path: Path, folder: Path, model: str | None, sources: str | None) -> tuple[str, tuple[Left, ...]]:
    """The study.yaml that starts from a file, and what of the file is left.

    Args:
        folder: where it will stand. model, sources: in place of the file's, as `init` writes them.

    Raises:
        InputError: the file is of neither tool, or says what meshtune cannot train; see `foreign.read`.
    """
    read = foreign.read(path, data=sources is None)
    written = text(_template_values(read, path, model, sources))
    lines = written.splitlines()
    for section in ("data", "training", "baseline"):
        for key, value in read.values[section].items():
            if key not in (*_OF_RECIPE.get(section, ()), "sources", "validation"):
                put(lines, section, key, value)
    for key, value in read.values["model"].items():
        if key == "quantization" or (key == "revision" and model is None):
            put(lines, "model", key, value)
    if "seed" in read.values:
        put(lines, "", "seed", read.values["seed"])
    written = "\n".join(lines) + "\n"
    file.parse(yaml_file.parse(written, path).values, folder)  # nothing is written that `check` would refuse
    return written, read.left


def put(lines: list[str], section: str, key: str, value: Any) -> None:
    """Give a key of init's text a value, in place; its comment stays. A section that is commented out is opened.

    `section` is "" for a key at the top. Raises ValueError where the text does not show the key.
    """
    start, indent = 0, ""
    if section:
        start = _find(lines, 0, rf"(# )?{section}:( |$)")
        if lines[start].startswith("# "):
            lines[start] = lines[start].removeprefix("# ").replace(":", ":  ", 1)  # the comment stays in its column
        start, indent = start + 1, "  "
    at = _find(lines, start, rf"(# )?{indent}(# )?{re.escape(key)}: ")
    comment = re.search(r" #.*$", lines[at].split(f"{key}:", 1)[1])
    entry = f"{indent}{key}: {_flow(value)}"
    lines[at] = f"{entry.ljust(30)}{comment[0]}" if comment else entry


def _find(lines: Sequence[str], start: int, pattern: str) -> int:
    for number in range(start, len(lines)):
        if re.match(pattern, lines[number]):
            return number
    raise ValueError(f"no line of the text matches {pattern}")


def _template_values(read: Read, path: Path, model: str | None, sources: str | None) -> TemplateValues:
    data, training = read.values["data"], read.values["training"]
    validation = data.get("validation", float(DEFAULT.validation))
    held = validation if isinstance(validation, float) else 0.0
    rows = sources if sources is not None else "\n".join(f"    - {_flow(source)}" for source in data["sources"])
    own = sources is not None
    return replace(
        DEFAULT,
        title=_title(read, path),
        model=model if model is not None else _flow(read.values["model"]["name"]),
        sources=rows,
        mixture="union" if own else data["mixture"],
        rows="null" if own else _flow(data.get("rows")),
        validation=_flow(validation),
        test=_flow(min(float(DEFAULT.test), round((1 - held) / 2, 4))),
        max_length=_flow(data["max_length"]),
        prompt="auto" if own else data["prompt"],
        epochs=training["epochs"],
        batch_size=training["batch_size"],
        gradient_accumulation=training["gradient_accumulation"],
        target_modules=_flow(training["target_modules"]),
        precision=training["precision"],
        advised=False,
    )


def _title(read: Read, path: Path) -> str:
    """The head of the file: where it comes from, and what is left."""
    name = " ".join(path.name.split())
    lines = [f"A study that starts from the {TOOLS[read.tool]} settings in {name}; they are its baseline."]
    if read.left:
        lines.append("Not carried over:")
    for left in read.left:
        wrapped = textwrap.wrap(str(left), 112, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        lines += wrapped
    return "\n# ".join(lines)


def _flow(value: Any) -> str:
    """A value on one line, as YAML and this file write it."""
    match value:
        case str():
            return (
                value
                if re.fullmatch(r"[A-Za-z][\w./-]*", value) and _plain(value)
                else json.dumps(value, ensure_ascii=False)
            )
        case Mapping():
            return "{" + ", ".join(f"{_flow(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_flow(item) for item in value) + "]"
        case _:
            return json.dumps(value)


def _plain(word: str) -> bool:
    """Whether YAML reads a word as itself, and not as null or true."""
    return bool(yaml_file.value(word) == word)
