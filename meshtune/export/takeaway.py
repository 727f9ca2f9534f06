"""What `train` and `export` leave behind: a folder that appears whole, with a model card and `training.json`.

`training.json` holds everything that the card says, as plain values, so that the folder can be exported again (merged,
say). The study's place is kept relative to the folder: no path of this machine is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.system import whole_file

FACTS = "training.json"
CARD = "README.md"


def check_free(out: Path) -> None:
    """Refuse a place where something stands. Raises InputError."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder that does not exist yet")
    if (out / FACTS).is_file():
        raise InputError(f"{out} holds a finished training or export, which is not overwritten: name another folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty, and nothing in it is overwritten: name another folder")


@contextlib.contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name `out` at the end; where something fails, nothing is left.

    Raises StorageError.
    """
    aside = out.with_name(f".{out.name}.part")
    with whole_file.writing(out):
        if aside.exists():  # left by a process that was killed
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
    try:
        yield aside
        put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_in_place(made: Path, out: Path) -> None:
    """Give the finished folder its name, where nothing or an empty folder stands. Raises StorageError."""
    with whole_file.writing(out):
        if out.is_dir():
            out.rmdir()
        os.rename(made, out)


def write_facts(folder: Path, facts: Mapping[str, Any], out: Path, study: Path | None) -> dict[str, Any]:
    """Write the card and the facts into `folder`, which will be called `out`; returns the facts as they were written.

    `study` is the study's folder, None where it is not known. Raises StorageError.
    """
    from meshtune.export.card import card

    values: dict[str, Any] = json.loads(json.dumps(facts))
    values["study"]["folder"] = None if study is None else _way(study, out)
    with whole_file.writing(folder):
        (folder / CARD).write_text(card(values, out.name), encoding="utf-8")
        write_json(folder / FACTS, values)
        readable(folder, (folder / FACTS).stat().st_mode)  # as the user's umask has it
    return values


def readable(folder: Path, mode: int) -> None:
    """Give this mode to all files inside: safetensors leaves its files to their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _way(study: Path, out: Path) -> str | None:
    """The study's folder as seen from `out`; None where the way goes through somebody's home, which names them."""
    way = os.path.relpath(study, out)
    through_home = study.is_relative_to(Path.home()) and not out.is_relative_to(Path.home())
    return None if through_home or {"home", "Users"} & set(Path(way).parts) else way


def read_facts(folder: Path, trial: str | int = "best") -> tuple[dict[str, Any], Path | None]:
    """The facts of a folder that `train` or `export` wrote, and its study's folder, None where that is not here.

    `trial` is what the user named. Raises InputError where the folder holds another, or the facts are damaged.
    """
    path = folder / FACTS
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"meshtune", "model", "point", "run", "study", "data"} - values.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(Fault(f"cannot be read ({error})", path)) from error
    if missing:
        raise InputError(Fault(f"lacks {', '.join(sorted(missing))}: meshtune did not write it", path))
    if str(trial) not in ("best", str(values["point"]["trial"])):
        name = values["point"]["name"]
        raise InputError(f"{folder} holds one adapter, of {name}: leave --trial out, or name the study")
    held = values["study"]["folder"]
    study = (folder / held).resolve() if held is not None else None
    return values, study if study is not None and study.is_dir() else None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values, whole or not at all. Raises OSError."""
    whole_file.write(path, json.dumps(values, indent=2) + "\n")
