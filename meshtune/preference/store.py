"""What the server reads from and writes to a study's database: annotators, their tasks, their votes.

Guarantees: a vote that `vote` answered is on disk; a vote sent twice is one; a vote from a page that is no longer true
(another tab was faster) changes nothing. Reads are of one thread, writes of any: one thread writes, and what waits
together is committed together. A commit that reaches the disk takes milliseconds, however much is in it; so the writes
of many people at once cost one. Each write is whole or not there, and its future is done only after the commit.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar

from meshtune.errors import MeshtuneError, StorageError
from meshtune.preference.private import DATABASE
from meshtune.preference.schema import connect, opened

Choice = Literal["a", "b", "tie", "bad"]
CHOICES: tuple[Choice, ...] = ("a", "b", "tie", "bad")


class Saved(Enum):
    """What became of a vote that was sent."""

    SAVED = "it is on disk"
    REPEATED = "the same vote was there already"
    STALE = "another vote was given to this pair in the meantime, and stands"
    CLOSED = "the annotator has finished, or the study is closed: votes are not changed any more"


@dataclass(frozen=True)
class Annotator:
    """One person (or what is in the place of one). Times are in seconds since 1970, None where not reached."""

    id: int
    name: str
    origin: str
    version: int
    revoked: bool
    consented: float | None
    said: str | None
    finished: float | None


@dataclass(frozen=True)
class Vote:
    """A choice about one pair; `revision` is 1 for the first one, `seconds` from the page to the vote, or None."""

    position: int
    revision: int
    choice: Choice
    strength: int | None
    comment: str
    seconds: float | None


@dataclass(frozen=True)
class Page:
    """What is asked in one position: the question and the ids of the answers on side A and side B."""

    question: str
    a: str
    b: str


class Store:
    """The database of the study in `folder`. Raises InputError where there is none, StorageError."""

    def __init__(self, folder: Path):
        self._reader = opened(folder)
        self._reader.row_factory = sqlite3.Row
        self._writer = Writer(folder / DATABASE)
        self.write = self._writer.write
        self.positions = int(self._one("SELECT count(*) FROM question")[0])
        self.asks: tuple[str, ...] = tuple(json.loads(self.meta("asks") or "[]"))

    def close(self) -> None:
        """Write what waits, and close."""
        self._writer.close()
        self._reader.close()

    # -- reading

    def meta(self, key: str) -> str | None:
        """A value of the study as a whole, None where there is none."""
        row = self._reader.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    @property
    def closed(self) -> bool:
        """Whether votes are no longer taken."""
        return self.meta("closed") is not None

    def annotator(self, number: int) -> Annotator | None:
        """One annotator, None where there is no such."""
        row = self._reader.execute("SELECT * FROM annotator WHERE id = ?", (number,)).fetchone()
        return None if row is None else _annotator(row)

    def annotators(self) -> list[Annotator]:
        """All of them."""
        return [_annotator(row) for row in self._reader.execute("SELECT * FROM annotator ORDER BY id")]

    def page(self, annotator: int, position: int) -> Page:
        """What is asked there."""
        query = "SELECT q.text, t.a, t.b FROM task t JOIN question q ON q.id = t.question"
        row = self._one(f"{query} WHERE t.annotator = ? AND t.position = ?", annotator, position)
        return Page(*row)

    def answers(self) -> dict[str, str]:
        """Text of every answer, by id."""
        return dict(self._reader.execute("SELECT id, text FROM answer").fetchall())

    def current(self, annotator: int, position: int) -> Vote | None:
        """The vote that counts, None before there is one."""
        return _latest(self._reader, annotator, position)

    def answered(self, annotator: int) -> int:
        """How many of the positions have a vote: they are the first ones."""
        return _answered(self._reader, annotator)

    def progress(self) -> list[dict[str, Any]]:
        """Per annotator how far it is and when it last voted: nothing about what was chosen."""
        query = """
            SELECT a.*, count(DISTINCT v.position) AS answered, max(v.at) AS last
            FROM annotator a LEFT JOIN vote v ON v.annotator = a.id GROUP BY a.id ORDER BY a.id"""
        return [
            {"annotator": _annotator(row), "answered": row["answered"], "last": row["last"]}
            for row in self._reader.execute(query)
        ]

    # -- writing

    def vote(self, annotator: int, vote: Vote) -> Future[Saved]:
        """Take a vote; `vote.revision` is the one that it makes, as the page that it comes from knew it."""

        def write(connection: sqlite3.Connection) -> Saved:
            if _is_over(connection, annotator):
                return Saved.CLOSED
            now = _latest(connection, annotator, vote.position)
            if vote.revision != (now.revision if now is not None else 0) + 1:
                return Saved.REPEATED if now is not None and _same(now, vote) else Saved.STALE
            if vote.position > _answered(connection, annotator) + 1:
                return Saved.STALE
            row = (vote.choice, vote.strength, vote.comment, vote.seconds, time.time())
            connection.execute(
                "INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (annotator, vote.position, vote.revision, *row)
            )
            return Saved.SAVED

        return self.write(write)

    def consent(self, annotator: int) -> Future[None]:
        """The annotator agrees to take part; the first time counts."""
        query = "UPDATE annotator SET consented = coalesce(consented, ?) WHERE id = ?"
        return self._run(query, time.time(), annotator)

    def say(self, annotator: int, said: dict[str, str]) -> Future[None]:
        """Keep the answers to the screening questions."""
        return self._run("UPDATE annotator SET said = ? WHERE id = ?", json.dumps(said), annotator)

    def finish(self, annotator: int) -> Future[bool]:
        """The annotator is done; False, and nothing is done, while votes are missing."""
        count = self.positions

        def write(connection: sqlite3.Connection) -> bool:
            if _answered(connection, annotator) < count:
                return False
            query = "UPDATE annotator SET finished = coalesce(finished, ?) WHERE id = ?"
            connection.execute(query, (time.time(), annotator))
            return True

        return self.write(write)

    def revoke(self, annotator: int) -> Future[None]:
        """The annotator's link opens nothing any more. The votes stay."""
        return self._run("UPDATE annotator SET revoked = 1 WHERE id = ?", annotator)

    def renew(self, annotator: int) -> Future[None]:
        """Another link; those before it are void."""
        return self._run("UPDATE annotator SET revoked = 0, version = version + 1 WHERE id = ?", annotator)

    def withdraw(self, annotator: int) -> Future[None]:
        """Remove all that the annotator gave, and revoke the link: for who asks to be left out."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM vote WHERE annotator = ?", (annotator,))
            query = "UPDATE annotator SET revoked = 1, consented = NULL, said = NULL, finished = NULL WHERE id = ?"
            connection.execute(query, (annotator,))

        return self.write(write)

    def end(self) -> Future[None]:
        """Close the study: no vote is taken any more, and the seal may be opened."""
        return self._run("INSERT OR IGNORE INTO meta VALUES ('closed', ?)", repr(time.time()))

    def _run(self, query: str, *values: object) -> Future[None]:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(query, values)

        return self.write(write)

    def _one(self, query: str, *values: object) -> sqlite3.Row:
        row: sqlite3.Row = self._reader.execute(query, values).fetchone()
        return row


def _annotator(row: sqlite3.Row) -> Annotator:
    values = {key: row[key] for key in Annotator.__dataclass_fields__}
    return Annotator(**{**values, "revoked": bool(values["revoked"])})


def _latest(connection: sqlite3.Connection, annotator: int, position: int) -> Vote | None:
    query = "SELECT position, revision, choice, strength, comment, seconds FROM vote"
    row = connection.execute(
        f"{query} WHERE annotator = ? AND position = ? ORDER BY revision DESC LIMIT 1", (annotator, position)
    ).fetchone()
    return None if row is None else Vote(*row)


def _answered(connection: sqlite3.Connection, annotator: int) -> int:
    row = connection.execute("SELECT coalesce(max(position), 0) FROM vote WHERE annotator = ?", (annotator,)).fetchone()
    return int(row[0])


def _is_over(connection: sqlite3.Connection, annotator: int) -> bool:
    query = """
        SELECT a.finished IS NOT NULL OR a.revoked OR EXISTS (SELECT 1 FROM meta WHERE key = 'closed')
        FROM annotator a WHERE a.id = ?"""
    row = connection.execute(query, (annotator,)).fetchone()
    return row is None or bool(row[0])


def _same(one: Vote, other: Vote) -> bool:
    return (one.choice, one.strength, one.comment) == (other.choice, other.strength, other.comment)


Write = Callable[[sqlite3.Connection], Any]
Result = TypeVar("Result")
_Waiting = tuple[Write, "Future[Any]"]
_TOGETHER = 256  # writes in one commit


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
