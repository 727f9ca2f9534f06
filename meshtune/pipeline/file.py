"""A pipeline's YAML: a list of meshtune's own commands. Reads it for one scale, and finds every fault of its form.

A step is a name, a command with its arguments, and that command's options by their names. A scale overrides keys of
steps; `skip: true` leaves a step out. Nothing is run here, and what an option means is not known here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, nearest, refuse
from meshtune.system import yaml_file

COMMANDS = ("tune", "evaluate", "select", "report", "train", "export", "prefer create", "prefer analyze", "python")
OUT = "{out}"  # stands for the folder of the results
_STUDY = {"model", "data", "objective", "space", "budget", "rounds"}  # keys by which a study.yaml is known


@dataclass(frozen=True)
class Step:
    """One command. `arguments`: as they would stand in a shell behind `meshtune` (or, for a script, `python`)."""

    name: str
    command: str
    arguments: tuple[str, ...]
    options: Mapping[str, Any]
    skip: bool = False

    @property
    def words(self) -> list[str]:
        """The command line without the program's name."""
        return [*([] if self.command == "python" else self.command.split()), *self.arguments, *_words(self.options)]

    @property
    def bound(self) -> list[str]:
        """The same with each value bound to its option, by which a flag that was given a value is found."""
        pairs = [option if value is None else f"{option}={value}" for option, value in _pairs(self.options)]
        return [*self.command.split(), *self.arguments, *pairs]

    @property
    def shown(self) -> str:
        """The command line, for people."""
        return " ".join(["python" if self.command == "python" else "meshtune", *self.words])

    def given(self, option: str) -> list[str]:
        """The values of an option, each as a shell would give it; of a flag none."""
        return _words({option: self.options.get(option)})[1::2]

    def digest(self, folder: Path, before: str, named: Iterable[Path] = ()) -> str:
        """What the step rests on: its words, the contents of the files that they name and of `named`, and the steps
        before it."""
        made = [word for key in ("out", "folder", "figures") for word in self.given(key)]  # what it writes itself
        files = [folder / word for word in self.words if word and word not in made and _is_file(folder / word)]
        contents = [_content(path) for path in (*files, *filter(_is_file, named))]
        return hashlib.sha256(json.dumps([before, self.words, contents]).encode()).hexdigest()


@dataclass(frozen=True)
class Pipeline:
    """The steps of a file at one scale. Relative paths in them are relative to `folder`, the file's."""

    path: Path
    out: Path
    steps: tuple[Step, ...]

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self.path.parent


def read(path: Path, *, scale: str | None = None, out: Path | None = None) -> Pipeline:
    """Read a pipeline. Raises InputError with all faults of its form."""
    if not path.exists():
        raise InputError(Fault("there is no such file; a pipeline is a YAML file with a list of steps", path))
    if path.is_dir():
        study = f"; `meshtune tune {path}` runs the study in it" if (path / "study.yaml").is_file() else ""
        raise InputError(Fault(f"is a folder; a pipeline is a YAML file with a list of steps{study}", path))
    document = yaml_file.read(path)
    if "steps" not in document.values and _STUDY & document.values.keys():
        what = f"is a study, and no pipeline, which is a list of steps: `meshtune tune {path}` runs it"
        raise InputError(Fault(what, path))
    path = path.absolute()
    faults = [
        Fault(f"unknown key; there are steps and scales{nearest(key, ('steps', 'scales'))}", path, None, key)
        for key in document.values
        if key not in ("steps", "scales")
    ]
    steps: Any = document.values.get("steps")
    scales: Any = document.values.get("scales") or {}
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        faults.append(
            Fault("a list of steps is needed, such as `- {name: search, tune: study.yaml}`", path, None, "steps")
        )
    if not isinstance(scales, dict) or not all(isinstance(each, dict | None) for each in scales.values()):
        faults.append(
            Fault("scales are names with changes of steps: `small: {search: {trials: 4}}`", path, None, "scales")
        )
    refuse(faults)
    if scale is not None and scale not in scales:
        known = ", ".join(scales) or "none"
        raise InputError(Fault(f"there is no scale {scale}; there are: {known}", path, None, "scales"))
    changes = (scales[scale] or {}) if scale is not None else {}
    out = (out or path.parent / "out" / (scale or "full")).absolute()
    names = [step.get("name") for step in steps]
    for name, change in changes.items():
        if name not in names:
            faults.append(Fault("there is no such step", path, None, f"scales.{scale}.{name}"))
        if not isinstance(change, dict | None):
            faults.append(Fault("changes of a step are a mapping of its options", path, None, f"scales.{scale}.{name}"))
    changes = {name: change for name, change in changes.items() if isinstance(change, dict)}
    found = [
        _step(step, changes, out, path, document.lines.get(("steps", at)), faults) for at, step in enumerate(steps)
    ]
    for name in {name for name in names if isinstance(name, str) and names.count(name) > 1}:
        faults.append(Fault(f"two steps have the name {name}", path, None, "steps"))
    refuse(faults)
    return Pipeline(path, out, tuple(step for step in found if step is not None and not step.skip))


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a word may be too long to be a name
        return False


def _step(
    values: Mapping[str, Any],
    changes_of: Mapping[str, Mapping[str, Any]],
    out: Path,
    path: Path,
    line: int | None,
    faults: list[Fault],
) -> Step | None:
    name = values.get("name")
    before = len(faults)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        faults.append(Fault("a step needs a name of letters, digits, - and _", path, line, "name"))
    commands = [key for key in values if key in COMMANDS]
    if len(commands) != 1:
        given = f"given: {', '.join(commands)}" if commands else "none is given"
        faults.append(Fault(f"a step has one command of {', '.join(COMMANDS)}; {given}", path, line, str(name)))
    if len(faults) > before:
        return None
    merged = dict(values)
    for key, value in changes_of.get(str(name), {}).items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if both else value
    merged = _placed(merged, str(out))
    arguments = merged[commands[0]]
    words = arguments if isinstance(arguments, list) else [] if arguments is None else [arguments]
    options = {key: value for key, value in merged.items() if key not in ("name", "skip", commands[0])}
    skip = merged.get("skip", False)
    if not isinstance(skip, bool):
        faults.append(Fault(f"skip is true or false, not {text(skip)}", path, line, str(name)))
    for unknown in sorted(
        {found for word in (*words, *options.values()) for found in re.findall(r"^\{\w+\}", str(word))}
    ):
        faults.append(Fault(f"{unknown} stands for nothing; {OUT} is the folder of the results", path, line, str(name)))
    return Step(str(name), commands[0], tuple(map(text, words)), options, skip is True)


def _placed(value: Any, out: str) -> Any:
    """The value with the results' folder in place of `{out}`."""
    if isinstance(value, str):
        return value.replace(OUT, out)
    if isinstance(value, Mapping):
        return {key: _placed(inner, out) for key, inner in value.items()}
    return [_placed(inner, out) for inner in value] if isinstance(value, list) else value


def _words(options: Mapping[str, Any]) -> list[str]:
    return [word for pair in _pairs(options) for word in pair if word is not None]


def _pairs(options: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Options as a shell would give them: true is a flag, a list is repeated, a mapping is KEY=VALUE for each key."""
    found: list[tuple[str, str | None]] = []
    for key, value in options.items():
        option = "--" + key.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append((option, None))
        elif isinstance(value, Mapping):
            found += [(option, f"{name}={text(inner)}") for name, inner in value.items()]
        else:
            found += [(option, text(inner)) for inner in (value if isinstance(value, list) else [value])]
    return found


def text(value: Any) -> str:
    """A value as a shell would give it."""
    return value if isinstance(value, str) else json.dumps(value)
