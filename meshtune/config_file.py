"""From study.yaml to a `StudyConfig` and back: every fault at once, with its file, line and key."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from meshtune import yaml_file
from meshtune.config import StudyConfig
from meshtune.errors import Fault, InputError, nearest
from meshtune.yaml_file import Document, Place


def read(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a file, changed by `key=value` overrides. Raises InputError with all its faults."""
    return parse(yaml_file.read(path), path, overrides)


def parse(document: Document, path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a document that stands, or would stand, at `path`; relative paths are relative to its folder."""
    values = json.loads(json.dumps(document.values))
    changed = _override(values, overrides)
    _resolve_paths(values, path.absolute().parent)
    try:
        return StudyConfig.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        faults = []
        for details in error.errors(include_url=False):
            place = _real_place(details["loc"], values)
            override = next((text for at, text in changed.items() if place[: len(at)] == at), None)
            where = f"--set {override}" if override else path
            line = None if override else document.line(place)
            faults.append(Fault(_message(details, place), where, line, ".".join(map(str, place))))
        raise InputError(sorted(faults, key=lambda fault: fault.line or 0)) from error


def dump(config: StudyConfig) -> str:
    """The effective config as YAML; reading it gives an equal config."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.budget.trials is None:
        values["budget"]["trials"] = None  # left out it would be the default
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def study_folder(path: Path, config: StudyConfig, given: Path | None = None) -> Path:
    """Where the study lives: as given, else as the config says, else `<name of the YAML>/` beside it."""
    if given is not None:
        return given
    return Path(config.folder) if config.folder is not None else path.with_suffix("")


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read as something else."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = None if yaml_file.scalar(text) == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _override(values: dict[str, Any], overrides: Iterable[str]) -> dict[Place, str]:
    """Apply `a.b.0.c=value` in place; returns the places that were changed, with the text that did it."""
    changed: dict[Place, str] = {}
    faults = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            faults.append(Fault("must be KEY=VALUE, such as budget.trials=12", f"--set {text}"))
            continue
        place: Place = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        try:
            value = yaml_file.parse(f"value: {raw}").values["value"]
            _put(values, place, value)
        except (InputError, KeyError, IndexError, TypeError) as error:
            words = error.faults[0].message if isinstance(error, InputError) else f"there is no place `{key}`"
            faults.append(Fault(words, f"--set {text}"))
        changed[place] = text
    if faults:
        raise InputError(faults)
    return changed


def _put(values: Any, place: Place, value: Any) -> None:
    for part in place[:-1]:
        if isinstance(values, dict):
            if isinstance(values.get(str(part)), str) and str(part) in ("model", "sampler", "worker"):
                values[str(part)] = {"name": values[str(part)]}
            values = values.setdefault(str(part), {})
        else:
            values = values[part]
    last = place[-1]
    if isinstance(values, dict):
        values[str(last)] = value
    elif isinstance(values, list):
        values[int(last)] = value
    else:
        raise TypeError


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make paths absolute. A model's name is a path where it looks like one or such a file is there."""

    def resolve(section: Any, key: str) -> None:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = str((folder / Path(section[key]).expanduser()).resolve())

    resolve(values, "folder")
    data = values.get("data")
    if isinstance(data, dict):
        sources = data.get("sources")
        for section in (*(sources if isinstance(sources, list) else ()), data.get("validation"), data.get("test")):
            resolve(section, "path")
    section, key = (values, "model") if isinstance(values.get("model"), str) else (values.get("model"), "name")
    name = section.get(key) if isinstance(section, dict) else None
    if isinstance(name, str) and name != "embedded":
        looks = name.startswith((".", "/", "~")) or name.endswith(".gguf") or (folder / name).is_dir()
        if looks:
            resolve(section, key)


def _real_place(location: Sequence[int | str], values: Any) -> Place:
    """A pydantic location without the tags of its unions."""
    place: list[int | str] = []
    for index, part in enumerate(location):
        if isinstance(values, Mapping) and part in values:
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        elif index < len(location) - 1 or part in _TAGS:
            continue
        place.append(part)
    return tuple(place)


_TAGS = {"file", "whole", "share", "word", "list", "interval", "choices", "value", "lora", "program", "preset"}
_TAGS |= {"mapping", "bool", "int", "float", "str"}


def _message(details: Any, place: Place) -> str:
    given, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            known = _keys_at(place[:-1])
            return f"unknown key; there are {', '.join(known)}.{nearest(str(place[-1]), known)}"
        case "missing":
            return "must be given"
        case "literal_error":
            allowed = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
            return f"`{given}` is not allowed; allowed are {', '.join(allowed)}.{nearest(str(given), allowed)}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{given} is not allowed; it {details['msg'].removeprefix('Input ')}"
        case "finite_number":
            return f"{given} is not a finite number"
        case "value_error":
            return str(context["error"])
        case _:
            return f"{_short(given)}: {details['msg'].replace('Input', 'this')}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(place: Place) -> list[str]:
    """The known keys of the section at a place."""
    section: type[BaseModel] = StudyConfig
    for part in place:
        if isinstance(part, str) and part in section.model_fields:
            inside = list(_sections(section.model_fields[part].annotation))
            section = inside[0] if inside else section
    return list(section.model_fields)


def _sections(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _sections(argument)
