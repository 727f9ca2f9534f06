"""One thread that writes to a SQLite database: what waits together is committed together, and is then on disk.

A commit that reaches the disk takes milliseconds, however much is in it; so the writes of many people at once cost one.
Each write is whole or not there, and its future is done only after the commit.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from meshtune.errors import MeshtuneError, StorageError

Write = Callable[[sqlite3.Connection], Any]
Result = TypeVar("Result")
_Waiting = tuple[Write, "Future[Any]"]
_TOGETHER = 256  # writes in one commit


def connect(path: Path) -> sqlite3.Connection:
    """A connection that commits only when told to, and whose commits are on disk. Raises StorageError."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be opened as a database ({error})") from error
    return connection


class Writer:
    """Writes to the database at `path` from any thread. `close` waits until all is written."""

    def __init__(self, path: Path):
        self._connection = connect(path)
        self._queue = queue.SimpleQueue[_Waiting | None]()
        self._thread = threading.Thread(target=self._run, name="preference-writer", daemon=True)
        self._thread.start()

    def write(self, what: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        """Run `what` inside a transaction; the future has its result when that is on disk, or what it raised."""
        future = Future[Result]()
        self._queue.put((what, future))
        return future

    def close(self) -> None:
        """Write what waits, and end."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        more = True
        while more:
            first = self._queue.get()
            batch = list[_Waiting]()
            while first is not None:
                batch.append(first)
                if len(batch) == _TOGETHER:
                    break
                try:
                    first = self._queue.get_nowait()
                except queue.Empty:
                    break
            more = first is not None
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[_Waiting]) -> None:
        results = list[tuple[Future[Any], Any, BaseException | None]]()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for what, future in batch:
                results.append((future, *self._one(what)))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:  # a full disk, say: nothing of this batch is there
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            fault = StorageError(f"the votes cannot be written ({error})")
            results = [(future, None, fault) for _, future in batch]
        for future, result, raised in results:
            if raised is not None:
                future.set_exception(raised)
            else:
                future.set_result(result)

    def _one(self, what: Write) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT one")
        try:
            result = what(self._connection)
        except (MeshtuneError, ValueError, sqlite3.IntegrityError) as error:  # of this write alone
            self._connection.execute("ROLLBACK TO one")
            self._connection.execute("RELEASE one")
            return None, error
        self._connection.execute("RELEASE one")
        return result, None
