"""From study.yaml to a `StudyConfig` and back: every fault at once, with its file, line and key.

Relative paths become absolute here. Whether files, models and data sets exist is found out by whoever reads them.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meshtune.config import faults as config_faults
from meshtune.config import rounds as config_rounds
from meshtune.config.sections import StudyConfig, is_command
from meshtune.errors import Fault, InputError
from meshtune.plain_text import masked
from meshtune.system import storage_url, yaml_file
from meshtune.system.yaml_file import Document, Place

_logger = logging.getLogger(__name__)
WRITTEN = "# Every key of this study, as it was begun or continued last. Written by meshtune.\n"  # how that begins
RENAMED = {("early_stopping", "told"): "value"}  # keys of earlier versions, which are read all the same
# `sampler: mads` is short for `sampler: {name: mads}`
SHORT_FORMS = {"model": "name", "sampler": "name", "worker": "name", "warm_start": "study", "early_stopping": "rule"}


def read(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of a file, changed by `key=value` overrides. Raises InputError with all its faults."""
    return _config(yaml_file.read(path), path, path.absolute().parent, overrides)


def parse(values: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The config of plain values; relative paths are relative to `folder`. Raises InputError with all their faults."""
    return _config(Document(dict(values)), None, folder.absolute(), overrides)


def dump(config: StudyConfig) -> str:
    """The effective config as YAML; reading it gives an equal config."""
    return WRITTEN + yaml_file.dump(config.model_dump(mode="json"))


def shown(config: StudyConfig, *, exclude_none: bool = False) -> dict[str, Any]:
    """The config as plain values for people and programs to read: without the passwords of URLs."""
    values: dict[str, Any] = _masked(config.model_dump(mode="json", exclude_none=exclude_none))
    return values if config.storage is None else {**values, "storage": storage_url.shown(config.storage)}


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return masked(value) if isinstance(value, str) else value


def round_config(config: StudyConfig, index: int, folder: Path) -> StudyConfig:
    """The config of one of the `rounds`, from 0; `folder` holds all of them. Its own `rounds` and `folder` are empty.

    Limits of hours and tokens outside `rounds` are those of all rounds together: they stand in each round's budget.
    """
    values = config_rounds.all_merged(config.model_dump(mode="json"), SHORT_FORMS, folder)[index]
    return StudyConfig.model_validate_json(json.dumps(values), strict=True)


def study_folder(path: Path, config: StudyConfig, given: Path | None = None) -> Path:
    """Where the study lives: as given, else as the config says, else `<name of the YAML>/` beside it."""
    if given is not None:
        return given
    return Path(config.folder) if config.folder is not None else path.with_suffix("")


@dataclass
class _Sources:
    """Where each value came from: lines of the file, and overrides of the command line."""

    file: Path | None
    lines: Mapping[Place, int]
    overrides: dict[Place, str] = field(default_factory=dict)

    def fault(self, place: Place, message: str) -> Fault:
        """A fault at a place, or at the nearest one around it that was given."""
        key = ".".join(map(str, place))
        made_by = [text for at, text in self.overrides.items() if at[: len(place)] == place]
        if made_by and place not in self.lines:
            return Fault(message, _option(made_by[0]), None, key)
        for length in range(len(place), 0, -1):
            if place[:length] in self.overrides:
                return Fault(message, _option(self.overrides[place[:length]]), None, key)
            if place[:length] in self.lines:
                return Fault(message, self.file, self.lines[place[:length]], key)
        return Fault(message, self.file, None, key)


def _option(text: str) -> str:
    """An override as it was given, but for a password in it."""
    key, equals, value = text.partition("=")
    shown = storage_url.hidden if key.rpartition(".")[2] == "storage" else storage_url.shown
    return f"--set {key}{equals}{shown(value)}"


def storage_option(overrides: Sequence[str]) -> str | None:
    """The override that gave the study's storage, as it may be shown; None where there is none."""
    given = [text for text in overrides if text.partition("=")[0] == "storage"]
    return _option(given[-1]) if given else None


def _config(document: Document, file: Path | None, folder: Path, overrides: Sequence[str]) -> StudyConfig:
    try:
        values = json.loads(json.dumps(document.values, default=_plain))  # a copy, as JSON sees it
    except (TypeError, ValueError) as error:  # ValueError: it contains itself
        raise InputError(Fault(str(error), file)) from error
    sources = _Sources(file, document.lines)
    faults = _override(values, overrides, sources)
    values = {key: value for key, value in values.items() if value is not None}  # `training:` with nothing under it
    rounds = isinstance(values.get("rounds"), list) and bool(values["rounds"])
    for each in (values, *(values["rounds"] if rounds else ())):
        _join_modules(each)
        _rename(each, file)
    found = [] if rounds else config_faults.of_values(values)
    _resolve_paths(values, folder)
    config = None
    try:
        config = StudyConfig.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        found += config_faults.of_types(error)
    if rounds:
        found += [each for each in _of_rounds(values, folder) if each not in found]
        faults += _of_trials(values, sources)
    faults += [sources.fault(place, message) for place, message in found]
    if config is None or faults:
        raise InputError(sorted(faults, key=lambda fault: fault.line or 0))
    return config


def _join_modules(values: Any) -> None:
    """Modules that belong together become one text: `[q_proj, v_proj]` inside a list of choices, or in the baseline, is
    `q_proj,v_proj`."""

    def joined(names: Any) -> Any:
        whole = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
        return ",".join(names) if whole else names

    key = "target_modules"
    space, baseline = (values.get(name) if isinstance(values, dict) else None for name in ("space", "baseline"))
    if isinstance(space, dict) and isinstance(space.get(key), list):
        space[key] = [joined(choice) for choice in space[key]]
    if isinstance(baseline, dict) and key in baseline:
        baseline[key] = joined(baseline[key])


def _rename(values: Any, file: Path | None) -> None:
    """Read keys of earlier versions by the names that they have now; says so of a file that a person wrote."""
    for (name, old), new in RENAMED.items():
        section = values.get(name) if isinstance(values, dict) else None
        if isinstance(section, dict) and old in section and new not in section:
            section[new] = section.pop(old)
            if file is None or not file.read_text(encoding="utf-8").startswith(WRITTEN):
                _logger.warning(f"{file or 'the study'}: the key `{name}.{old}` is called `{new}` now; write that")


def _of_rounds(values: Mapping[str, Any], folder: Path) -> list[tuple[Place, str]]:
    """What is wrong with each round as it is read, once where it stands outside `rounds`."""
    found = config_rounds.not_own(values)
    rest = config_rounds.without(values, [place for place, _ in found])
    found += config_rounds.endless(values)
    known = [place for place, _ in found]
    for index, made in enumerate(config_rounds.all_merged(rest, SHORT_FORMS, folder)):
        if not isinstance(values["rounds"][index], dict):
            continue  # a fault of its own
        inside = config_faults.of_values(made)
        try:
            StudyConfig.model_validate_json(json.dumps(made), strict=True)
        except ValidationError as error:
            inside += config_faults.of_types(error)
        placed = [(config_rounds.place(rest, index, place), message) for place, message in inside]
        found += [each for each in placed if each not in found and each[0] not in known]
    return found


def _of_trials(values: Mapping[str, Any], sources: _Sources) -> list[Fault]:
    """A total of trials on the command line, which no round would follow that has its own."""
    text = sources.overrides.get(("budget", "trials"))
    own = [
        index
        for index, each in enumerate(values["rounds"])
        if isinstance(each, dict) and isinstance(each.get("budget"), dict) and "trials" in each["budget"]
    ]
    if text is None or not own:
        return []
    instead = " or ".join(f"--set rounds.{index}.budget.trials=N" for index in own)
    return [Fault(f"each round has its own number of trials: {instead}", f"--set {text}", None, "budget.trials")]


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is no plain value: numbers, text, true, false, lists and mappings are")


def _override(values: dict[str, Any], overrides: Sequence[str], sources: _Sources) -> list[Fault]:
    """Apply `a.b.0.c=value` in place and note where; returns what cannot be applied."""
    faults = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not (key and equals):
            faults.append(Fault("must be KEY=VALUE, such as budget.trials=12", _option(text)))
            continue
        try:
            place = _put(values, key.split("."), yaml_file.value(raw))
            sources.overrides[place] = text
        except InputError as error:
            faults += [Fault(fault.message, _option(text), None, key) for fault in error.faults]
    return faults


def _put(values: dict[str, Any], parts: Sequence[str], value: Any) -> Place:
    """Set one place; sections that are missing are made. Raises InputError where there is no such place."""
    inside: Any = values
    place: list[str | int] = []
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(inside, list):
            if not part.isdigit() or int(part) >= len(inside):
                raise InputError(f"`{'.'.join(map(str, place))}` has the items 0 to {len(inside) - 1}, not `{part}`")
            step: Any = int(part)
        elif isinstance(inside, dict):
            step = part
            if not last and inside.get(part) is None:
                inside[part] = {}
            if not last and depth == 0 and part in SHORT_FORMS and isinstance(inside[part], str):
                inside[part] = {SHORT_FORMS[part]: inside[part]}
        else:
            raise InputError(f"`{'.'.join(map(str, place))}` is `{inside}`, which has no `{part}`")
        place.append(step)
        if last:
            inside[step] = value
        else:
            inside = inside[step]
    return tuple(place)


def named_files(config: StudyConfig) -> list[Path]:
    """What a config names by its paths, but for its model and its folders: data, metrics, a sampler, a tool's settings.

    Not each of them need be there, or be a file.
    """
    values = config.model_dump(mode="json")
    found = []
    for inside in (values, *values["rounds"]):
        for key in (*_PATHS, *_MAYBE_PATHS):
            texts = [section[last] for section, last in _holding(inside, key.split("."))]
            found += [Path(re.sub(r"(\.py):.*", r"\1", text)) for text in texts if isinstance(text, str)]
    return found


# Keys whose values are paths; `*` is every item. Then those whose values may be, and which of them are.
_PATHS = (
    *("folder", "warm_start", "warm_start.study", "objective.directory", "objective.config"),
    *("metrics.*.file", "guide.benchmarks"),
    *("data.sources.*.path", "data.validation.path", "data.test.path"),
    *("evaluation.data", "evaluation.tasks", "evaluation.guided"),
)
_MAYBE_PATHS: Mapping[str, Callable[[str], bool]] = {
    "guide.text": lambda text: text != "embedded",
    "sampler.import": lambda text: ".py:" in text,
    "training.trainer.import": lambda text: ".py:" in text,
}


def _resolve_paths(values: dict[str, Any], folder: Path, *, of_round: bool = False) -> None:
    """Make paths absolute. A model's name is a path where it looks like one or such a folder or file is there.

    A round's program runs where that of the whole does, unless it says otherwise.
    """

    def is_model(name: str) -> bool:
        looks = name.startswith((".", "/", "~")) or name.endswith(".gguf")
        return looks or (name != "embedded" and (folder / name).is_dir())

    keys: dict[str, Callable[[str], bool]] = dict.fromkeys(_PATHS, lambda _: True)
    keys |= {**_MAYBE_PATHS, "model": is_model, "model.name": is_model}
    objective, sampler = values.get("objective"), values.get("sampler")
    if isinstance(objective, dict) and is_command(objective) and not of_round:
        objective.setdefault("directory", ".")
    if isinstance(sampler, dict) and sampler.get("name") == "nni-tpe":
        keys["sampler.options.python"] = lambda text: "/" in text
    for key, is_path in keys.items():
        for section, last in _holding(values, key.split(".")):
            if isinstance(section[last], str) and is_path(section[last]):
                section[last] = os.path.abspath(folder / os.path.expanduser(section[last]))
    if isinstance(priors := values.get("priors"), list):
        own_runs = (os.path.abspath(folder / os.path.expanduser(p)) if isinstance(p, str) else p for p in priors)
        values["priors"] = list(own_runs)
    rounds = values.get("rounds")
    for own in rounds if isinstance(rounds, list) else ():
        if isinstance(own, dict):
            _resolve_paths(own, folder, of_round=True)


def _holding(inside: Any, parts: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The sections that hold a key, each with the key's last part."""
    first, *rest = parts
    if first == "*":
        for item in inside.values() if isinstance(inside, dict) else inside if isinstance(inside, list) else ():
            yield from _holding(item, rest)
    elif isinstance(inside, dict) and first in inside:
        if rest:
            yield from _holding(inside[first], rest)
        else:
            yield inside, first
