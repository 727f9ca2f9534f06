"""Opens Optuna storages, and turns their errors into one message that says what to do."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.study import StudyDirection

from meshtune.errors import Fault, InputError, MissingExtra, StorageError, StorageLost, extra
from meshtune.system.storage_url import shown

PATIENCE_SECONDS = 300.0  # for a server that restarts
LONGEST_PAUSE = 30.0  # between attempts to connect

_logger = logging.getLogger(__name__)

_FILE = "sqlite:///"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage at a URL: SQLite with its rollback journal (network disks have no other), or a server.

    No connection is left open: a SQLite file's ends with its operation, a server's once nothing holds the storage.
    A server that was there and restarts is waited for. Raises StorageLost where it does not come back, and InputError
    where the URL is none of a database that can be had here.
    """
    try:
        sqlalchemy.make_url(url).get_dialect()
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: of a port
        what = f"`{shown(url)}` is no URL of a database; one such as postgresql://user@host/name is needed"
        raise InputError(Fault(what, key="storage")) from error
    storage = optuna.storages.RDBStorage(url, engine_kwargs=_engine_arguments(url))
    if not url.startswith("sqlite"):
        weakref.finalize(storage, storage.engine.dispose)
        sqlalchemy.event.listen(storage.engine, "do_connect", _connected)
    return storage


def _connected(dialect: Any, _: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """A new connection, in place of one that was lost. Each operation begins with one that answers."""
    waited, pause = 0.0, 1.0
    while True:
        try:
            return dialect.connect(*arguments, **named)
        except dialect.loaded_dbapi.OperationalError as error:
            words = str(error).strip().splitlines()[-1]
            if waited >= PATIENCE_SECONDS:
                raise StorageLost(
                    f"the study's database has not answered for {waited / 60:.0f} minutes ({words}). What was"
                    " recorded is safe; once it is up, run the same command again."
                ) from error
        if not waited:
            _logger.warning(f"the study's database does not answer ({words}); it is waited for")
        time.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)


def create_aside(url: str, name: str, attributes: Mapping[str, Any], directions: Sequence[StudyDirection]) -> None:
    """Make a SQLite file with a new study in it, where there is none: whole, or not at all.

    Optuna makes its tables one by one, also when it only means to read: a reader that met a half-made file would make
    the rest of it, and the writer would fail on what is there already.
    """
    path = sqlalchemy.make_url(url).database if url.startswith("sqlite:///") else None
    if path is None or Path(path).exists():
        return
    aside = Path(f"{path}.part")
    aside.unlink(missing_ok=True)
    storage = open_storage(f"sqlite:///{aside}")
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    aside.replace(path)


def loaded(storage: optuna.storages.RDBStorage, url: str, name: str) -> optuna.Study:
    """Open a study that is there. Raises InputError where it is not."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        held = ", ".join(f"`{other}`" for other in optuna.get_all_study_names(storage)) or "none"
        if held == "none" and url.startswith(_FILE):
            raise StorageError(_damaged(url, "it holds no study")) from error
        raise InputError(
            f"{shown(url)}: holds no study called `{name}`; it holds {held}. A study in a `storage` that others share"
            " is found by the name that its folder had when it began: give the folder that name, or begin a new study"
            " in another folder"
        ) from error


def _damaged(url: str, why: str) -> str:
    place = shown(url).removeprefix(_FILE)
    return (
        f"{place}: the study's record is damaged ({why}). Put a copy of this file back, or begin another study with"
        " `--folder`"
    )


def _engine_arguments(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.NullPool}
    return {"pool_pre_ping": True}


@contextlib.contextmanager
def storage_errors(url: str = "the study's storage") -> Iterator[None]:
    """Turn the storage's errors into one that says what to do."""
    try:
        yield
    except ImportError as error:
        scheme = url.partition(":")[0]
        install = extra("postgres") if scheme == "postgresql" else "see SQLAlchemy's documentation"
        raise MissingExtra(f"the storage {shown(url)}", error.name or f"a driver for {scheme}", install) from error
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        if "not a database" in cause or "malformed" in cause:
            raise StorageError(_damaged(url, cause)) from error
        if any(isinstance(e, sqlalchemy.exc.DBAPIError) and e.connection_invalidated for e in (error, error.__cause__)):
            raise StorageLost(
                f"{shown(url)}: the database went away in the middle of a write ({cause}). What was recorded is"
                " safe; once it is up, run the same command again."
            ) from error
        raise StorageError(
            f"{shown(url)}: cannot be read or written ({cause}). Is the disk full, the folder writable, the database"
            " up? What was recorded is safe; run the same command again."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna announces each new study: not here."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
