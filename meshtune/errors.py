"""Every error that meshtune raises on purpose, with what to do about it.

One family: `MeshtuneError`, whose `exit_code` the command line returns. A message says where, what was given, what is
allowed and what to do; it holds no password of a URL and no control character. Standard library only.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import importlib.util
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from meshtune.plain_text import clean

T = TypeVar("T")
SHOWN = 50  # faults of one message


class MeshtuneError(Exception):
    """The run failed. `exit_code` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(clean(message))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the input.

    Attributes:
        message: what was given, what is allowed, what to do.
        file: where it stands, or None. line: from 1, or None. key: dotted key such as `data.sources.0.path`, or "".
    """

    message: str
    file: Path | str | None = None
    line: int | None = None
    key: str = ""

    @property
    def clean(self) -> Fault:
        """The fault as it may be shown."""
        file = clean(self.file) if isinstance(self.file, str) else self.file  # such as `--set KEY=VALUE`
        return replace(self, message=clean(self.message), file=file, key=clean(self.key))

    def __str__(self) -> str:
        place = str(self.file) if self.file is not None else ""
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class InputError(MeshtuneError):
    """The input is wrong: all its faults at once, of which the message shows the first 50. Nothing was written."""

    exit_code = 2

    def __init__(self, faults: Fault | str | Sequence[Fault]):
        if isinstance(faults, str):
            faults = Fault(faults)
        faults = (faults,) if isinstance(faults, Fault) else faults
        self.faults: tuple[Fault, ...] = tuple(fault.clean for fault in faults)
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"and {len(self.faults) - SHOWN:,} more faults: mend these first")
        super().__init__("\n".join(lines))


def refuse(faults: Sequence[Fault]) -> None:
    """Raise InputError where there are faults."""
    if faults:
        raise InputError(faults)


@contextlib.contextmanager
def noting(faults: list[Fault]) -> Iterator[None]:
    """What is refused in the block is noted among `faults`, so that it is said with all others."""
    try:
        yield
    except InputError as error:
        faults += error.faults


def extra(names: str) -> str:
    """The line that installs an extra where meshtune itself came from: a clone, a file, or a package index."""
    try:
        origin = json.loads(importlib.metadata.distribution("meshtune").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:  # run out of a folder
        origin = {"dir_info": {}}
    if "dir_info" in origin:
        return f"pip install '.[{names}]' in your clone of meshtune"
    file = origin.get("url", "")
    return install(f"'meshtune[{names}] @ {file}'" if file else f"'meshtune[{names}]'")


def install(what: str) -> str:
    """The line that installs `what` into the environment that runs now: that of pipx or uvx may be nobody's `pip`."""
    pip, python = shutil.which("pip"), Path(sys.executable)
    if pip and Path(pip).parent == python.parent:
        return f"pip install {what}"
    if importlib.util.find_spec("pip"):
        return f"{python} -m pip install {what}"
    return f"uv pip install --python {python} {what}"


def together(makes: Iterable[Callable[[], T]]) -> list[T]:
    """What each of them makes. Raises InputError with the faults of all of them."""
    made, faults = list[T](), list[Fault]()
    for make in makes:
        with noting(faults):
            made.append(make())
    refuse(faults)
    return made


class MissingExtra(InputError):
    """A command needs a package that is not installed; the message gives the line that installs it."""

    def __init__(self, purpose: str, package: str, install: str):
        super().__init__(f"{purpose} needs the package `{package}`, which is not installed. Install it: {install}")


def need(purpose: str, *packages: str, extras: str = "train") -> None:
    """Raise MissingExtra where a package of an extra is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(purpose, package, extra(extras))


def need_training() -> None:
    """Raise MissingExtra where a package that training needs is not installed."""
    need("the training of adapters", "torch", "transformers", "peft", "accelerate", "datasets")


class StudyMismatch(InputError):
    """The study's record was made with other fixed keys, or by another sampler version."""


class StudyBusy(InputError):
    """Another living coordinator holds the study."""


class LeaseLost(MeshtuneError):
    """Another coordinator has taken the study over; this one wrote nothing since."""


class SamplerError(MeshtuneError):
    """The sampler's child process died, hung or answered nonsense; the message holds its last words."""


class WorkerError(MeshtuneError):
    """Workers cannot be started or keep dying before they evaluate anything."""


class StorageError(MeshtuneError):
    """The record or a file could not be written: a full disk, an unwritable folder, a lost database."""

    exit_code = 2


class StorageLost(StorageError):
    """The database was there and is so no more; once it is there again, the same command continues."""

    exit_code = 75


class Stopped(MeshtuneError):
    """Stopped before the budget was spent; the same command continues."""

    exit_code = 75


class Interrupted(MeshtuneError):
    """Interrupted by the user; the state is saved and the same command continues."""

    exit_code = 130


def last_words(error: BaseException) -> str:
    """Kind and text of an error, with the file and line that raised it, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the known word nearest to `word`, or an empty string."""
    match = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)  # its time grows with the square
    return f" Did you mean `{match[0]}`?" if match else ""
