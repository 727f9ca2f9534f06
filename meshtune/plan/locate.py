"""From what the user names (a YAML, a study's folder, or a folder that holds one study) to the study."""

from __future__ import annotations

import contextlib
import re
import shlex
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meshtune.config import file
from meshtune.config import rounds as config_rounds
from meshtune.config.sections import StudyConfig
from meshtune.errors import Fault, InputError, StudyMismatch
from meshtune.system import storage_url

EFFECTIVE = "study.yaml"  # a study's folder holds the effective config under this name
DATABASE = "study.db"


@dataclass(frozen=True)
class Located:
    """A study: its config and its folder. `source` is the YAML that was read, `storage_option` is `file`'s.

    Where the config has `rounds`, these are studies of their own in folders inside; `whole` is what a round is one of,
    and `number` its place in it, from 1.
    """

    source: Path
    folder: Path
    config: StudyConfig
    whole: Located | None = None
    number: int = 0
    storage_option: str | None = None

    @property
    def name(self) -> str:
        """The record's, in its storage: what the folder was called when the study began.

        In a database of its own the study is found whatever its folder is called now; one elsewhere may hold several.
        """
        if self.whole is not None:
            return f"{self.whole.name}.{self.folder.name}"
        names = _names_in(self._database) if self.config.storage is None else []
        if self.config.rounds:
            names = [name.partition(f".{config_rounds.name(1)}")[0] for name in names]
        return names[0] if names and self.folder.name not in names else self.folder.name

    @property
    def url(self) -> str:
        """The Optuna storage of the record; all rounds share one. Raises InputError, as `storage_url.resolved`."""
        storage = self.config.storage
        return f"sqlite:///{self._database}" if storage is None else storage_url.resolved(storage, self.storage_place)

    @property
    def storage_place(self) -> Path | str:
        """Where the storage was given: on the command line, or in the file."""
        return self.storage_option or self.source

    @property
    def started(self) -> bool:
        """Whether there is a record (a storage elsewhere is taken to hold one)."""
        if self.whole is not None:
            return (self.folder / EFFECTIVE).exists() and self.whole.started
        return self._database.exists() or (self.config.storage is not None and self.folder.exists())

    @property
    def rounds(self) -> tuple[Located, ...]:
        """The rounds in their order; empty where there are none."""
        found = []
        for index in range(len(self.config.rounds)):
            folder = self.folder / config_rounds.name(index + 1)
            config = file.round_config(self.config, index, self.folder)
            found.append(Located(self.source, folder, config, self, index + 1, self.storage_option))
        return tuple(found)

    @property
    def latest(self) -> Located:
        """The last round that has begun, else the first; the study itself where it has no rounds."""
        rounds = self.rounds
        return next((each for each in reversed(rounds) if each.started), rounds[0] if rounds else self)

    @property
    def _database(self) -> Path:
        return (self.folder if self.whole is None else self.whole.folder) / DATABASE


def locate(path: Path, *, overrides: tuple[str, ...] = (), folder: Path | None = None) -> Located:
    """Find and read the study that `path` names. Raises InputError with every fault at once."""
    source = _yaml_of(path)
    if folder is None and (found := _round(source, overrides)) is not None:
        return found
    config = file.read(source, overrides)
    own = folder is None and source.name == EFFECTIVE and _is_own(source, config)
    place = source.parent if own else file.study_folder(source, config, folder)
    return Located(source, place.absolute(), config, storage_option=file.storage_option(overrides))


def locate_values(values: Mapping[str, Any], *, overrides: tuple[str, ...] = (), folder: Path | None = None) -> Located:
    """As `locate`, for plain values in place of a file; relative paths are relative to the working directory.

    Raises InputError with every fault at once; without a YAML to stand beside, the study's folder must be given.
    """
    config = file.parse(values, Path.cwd(), overrides)
    if folder is None and config.folder is None:
        what = 'must be given: a study of plain values has no file to stand beside, such as `folder="my-study"`'
        raise InputError(Fault(what, key="folder"))
    chosen = folder if folder is not None else Path(config.folder or "")
    return Located(chosen / EFFECTIVE, chosen.absolute(), config)


def existing(path: Path, *, folder: Path | None = None) -> Located:
    """As `locate`, for a study that was started; its effective config is read. Of one with rounds it is the whole.

    The section `evaluation` decides nothing of the search, and is that of the YAML that was named.
    """
    found = locate(path, folder=folder)
    if not found.started:
        raise InputError(f"{path}: this study has not been started. Start it with `meshtune tune {path}`")
    effective = found.folder / EFFECTIVE
    if found.whole is None and effective.exists() and effective != found.source:
        named = found.config.evaluation
        found = Located(effective, found.folder, file.read(effective).model_copy(update={"evaluation": named}))
    return found


def seen_from_here(folder: Path) -> str:
    """A folder as a user would write it: relative where it lies below the working directory."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder != here and folder.is_relative_to(here) else folder)


def typed(folder: Path) -> str:
    """The same, quoted for a shell."""
    return shlex.quote(seen_from_here(folder))


@contextlib.contextmanager
def as_begun(study: Located) -> Iterator[None]:
    """Where fixed keys turn out to differ from a study's, add to the message how to go on as it was begun."""
    try:
        yield
    except StudyMismatch as error:
        own = (study.whole or study).folder / EFFECTIVE
        if not own.is_file():
            raise
        words = f"To go on as it was begun: meshtune tune {typed(own.parent)}"
        if own == study.source.absolute():
            words += "  (without `--set`; a value that was edited there must be written back)"
        raise StudyMismatch([*error.faults, Fault(words)]) from error


def _is_own(source: Path, config: StudyConfig) -> bool:
    """Whether a YAML lies in the study's own folder: its database does, or meshtune wrote it."""
    if config.storage is None:
        return (source.parent / DATABASE).exists()
    return source.read_text(encoding="utf-8").startswith(file.WRITTEN)


def _round(source: Path, overrides: tuple[str, ...]) -> Located | None:
    """The round whose own folder was named; None where it is none of a study with rounds."""
    folder, around = source.absolute().parent, source.absolute().parent.parent
    named = source.name == EFFECTIVE and re.fullmatch(r"round\d+", folder.name) is not None
    if not named or not (around / EFFECTIVE).is_file() or (folder / DATABASE).exists():
        return None
    config, option = file.read(around / EFFECTIVE, overrides), file.storage_option(overrides)
    whole = Located(around / EFFECTIVE, around, config, storage_option=option)
    return next((each for each in whole.rounds if each.folder == folder), None)


def _names_in(path: Path) -> list[str]:
    """The names of the studies in a SQLite file, the oldest first; none where there is no such file or no study in it.

    By one query: Optuna's own way would write its tables where there are none.
    """
    with contextlib.suppress(sqlite3.Error):  # whoever opens it as a storage meets that too, and says so
        database = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", timeout=60, uri=True)
        with contextlib.closing(database):
            return [name for (name,) in database.execute("SELECT study_name FROM studies ORDER BY study_id")]
    return []


def _yaml_of(path: Path) -> Path:
    if path.is_file() or not path.exists():
        return path  # a missing file is reported by the reader
    if (path / EFFECTIVE).is_file():
        return path / EFFECTIVE
    inside = sorted(path.glob(f"*/{EFFECTIVE}"))
    if len(inside) == 1:
        return inside[0]
    found = ", ".join(str(other) for other in inside) or "none"
    raise InputError(
        f"{path}: a study's YAML, its folder, or a folder with exactly one study is needed; studies in it: {found}."
        f" `meshtune init {path}` writes a first study.yaml"
    )
