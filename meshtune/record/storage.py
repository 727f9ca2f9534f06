"""Opens Optuna storages, and turns their errors into one message that says what to do.

A server may restart, be cut off, or let a write wait for too long, at any time. Each operation begins with a connection
that answers, and one that may be done twice is done again (`lasting`). Nothing waits for ever: the server's own limits
hold, or ours where it has none. Not noticed is a server that is frozen with its connections open; it is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.study import StudyDirection

from meshtune.errors import Fault, InputError, MissingExtra, StorageError, StorageLost, extra
from meshtune.system.storage_url import shown

PATIENCE_SECONDS = 300.0  # for a server that restarts
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # between attempts
LIMITS = {  # of a server that has none: no operation takes a second, and another's lock is waited for with a word
    "statement_timeout": "60s",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",  # of a coordinator that was frozen in the middle of a write
}
# A server that is cut off is noticed in a minute: by itself the system tries for a quarter of an hour, or for ever.
_LINK = {"connect_timeout": 10, "tcp_user_timeout": 60_000, "keepalives_idle": 30, "keepalives_interval": 10}
_AGAIN = {  # PostgreSQL's states that another attempt may not meet
    "40001": "another transaction was in the way",
    "40P01": "another transaction was in the way",
    "53300": "it has no connection left",
    "55P03": "another session holds a lock",
    "57014": "it took longer than the server allows",
    "57P03": "it is starting or stopping",
}

T = TypeVar("T")
_logger = logging.getLogger(__name__)

_FILE = "sqlite:///"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage at a URL: SQLite with its rollback journal (network disks have no other), or a server.

    No connection is left open: a SQLite file's ends with its operation, a server's once nothing holds the storage.
    A server that was there and restarts is waited for. Raises StorageLost where it does not come back, and InputError
    where the URL is none of a database that can be had here.
    """
    arguments = _engine_arguments(parsed(url))
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError):  # another study makes the tables just now
        time.sleep(1.0)
        storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    if not url.startswith("sqlite"):
        weakref.finalize(storage, storage.engine.dispose)
        _attend(storage.engine)
    return storage


def connections(url: str) -> sqlalchemy.Engine:
    """PostgreSQL's connections for statements of our own, each ended with its use."""
    arguments = {"connect_args": _engine_arguments(parsed(url))["connect_args"], "poolclass": sqlalchemy.NullPool}
    engine = sqlalchemy.create_engine(url, **arguments)
    sqlalchemy.event.listen(engine, "connect", _limited)
    return engine


def parsed(url: str, place: Path | str | None = None) -> sqlalchemy.URL:
    """Its parts. Raises InputError where it is none of a database that is known; `place`: where it was given."""
    try:
        parts = sqlalchemy.make_url(url)
        parts.get_dialect()
        return parts
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # ValueError: of a port
        what = f"`{shown(url)}` is no URL of a database; one such as postgresql://user@host/name is needed"
        raise InputError(Fault(what, place, key="storage")) from error


def _attend(engine: sqlalchemy.Engine) -> None:
    """Wait for a server that restarts, and let nothing wait for ever there."""
    sqlalchemy.event.listen(engine, "do_connect", _connected)
    if engine.name == "postgresql":
        engine.dispose()  # what was connected before has no limits


def _limited(connection: Any, _: Any = None) -> None:
    """Give a new connection the limits that neither its URL nor its server sets."""
    cursor = connection.cursor()
    for name, limit in LIMITS.items():
        cursor.execute(f"SELECT set_config('{name}', '{limit}', false) WHERE current_setting('{name}') = '0'")
    cursor.close()
    connection.commit()


def _connected(dialect: Any, _: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """A new connection, in place of one that was lost. Each operation begins with one that answers."""
    waited, pause = 0.0, FIRST_PAUSE
    while True:
        try:
            connection = dialect.connect(*arguments, **named)
            if dialect.name == "postgresql":
                _limited(connection)  # here: a server that ends now is waited for too
            return connection
        except dialect.loaded_dbapi.OperationalError as error:
            words = str(error).strip().splitlines()[0]
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
    path = _file(url)
    if path is None or Path(path).exists():
        return
    aside = Path(f"{path}.part")
    aside.unlink(missing_ok=True)
    storage = open_storage(f"sqlite:///{aside}")
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    aside.replace(path)


def refuse_missing(url: str) -> None:
    """Raise InputError where a SQLite file is not there, which opening it would make."""
    path = _file(url)
    if path is not None and not Path(path).exists():
        raise InputError(f"{shown(url).removeprefix(_FILE)}: there is no study's record here (yet)")


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


def _engine_arguments(url: sqlalchemy.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.NullPool}
    libpq = url.get_driver_name() in ("psycopg", "psycopg2")
    link = {name: value for name, value in _LINK.items() if name not in url.query} if libpq else {}
    return {"connect_args": link, "pool_pre_ping": True}


def lasting(write: Callable[[], T]) -> T:
    """What `write` gives, which may be done twice: it is done again where the database went away in the middle of it,
    or let it wait for too long. Raises as `storage_errors` expects it, once that has lasted for minutes.
    """
    waited, pause = 0.0, FIRST_PAUSE
    while True:
        try:
            return write()
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            why = _passing(error)
            if why is None or waited >= PATIENCE_SECONDS:
                raise
        _logger.warning(f"the study's database did not take a write ({why}); it is written again")
        time.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)


def _passing(error: BaseException) -> str | None:
    """What is in the way for a while only; None where another attempt would meet it again."""
    for each in (error, error.__cause__):
        if isinstance(each, sqlalchemy.exc.DBAPIError):
            words = str(each.orig).strip().splitlines()[0]
            state = getattr(each.orig, "sqlstate", None) or getattr(each.orig, "pgcode", None)
            if each.connection_invalidated:
                return f"the connection was lost: {words}"
            if state in _AGAIN or "database is locked" in words:
                return f"{_AGAIN.get(state or '', 'another program holds it')}: {words}"
    return None


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
        if why := _passing(error):
            raise StorageLost(
                f"{shown(url)}: the database went away, or did not answer in time ({why}). What was recorded is safe;"
                " once it is up, run the same command again."
            ) from error
        if (path := _file(url)) is not None and os.path.exists(path) and not os.access(path, os.R_OK):
            raise StorageError(f"{path} cannot be read: Permission denied") from error
        raise StorageError(
            f"{shown(url)}: cannot be read or written ({cause}). Is the disk full, the folder writable, the database"
            " up? What was recorded is safe; run the same command again."
        ) from error


def _file(url: str) -> str | None:
    """The file that an SQLite URL names."""
    return sqlalchemy.make_url(url).database if url.startswith(_FILE) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna announces each new study: not here."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
