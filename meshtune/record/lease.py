"""One coordinator a study, where its record is on a server: hosts that share no folder may share the database.

A row of the table `meshtune_leases` names the holder of a study. It touches the row every 15 seconds, by the database's
clock, on a connection of its own. A holder that did not for two minutes is taken for dead: it is dead, frozen, or cut
off. Minutes in which the server was down do not count. Where the holder shares our process table, that decides at once.

A holder that comes back late cannot write: every transaction of its record ends with a look at the row (`Lease.fence`),
which keeps the row as it is until the transaction is written. PostgreSQL alone; any other server has the lease in the
study's folder alone (`meshtune.system.lease`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import sqlalchemy
import sqlalchemy.exc
from sqlalchemy import text

from meshtune.errors import LeaseLost, StorageError, StudyBusy
from meshtune.record.storage import connections, storage_errors
from meshtune.system import lease as of_folder
from meshtune.system.lease import Holder
from meshtune.system.storage_url import shown

TABLE = "meshtune_leases"
_MAKE = f"CREATE TABLE IF NOT EXISTS {TABLE} (study text PRIMARY KEY, token text, holder text, beat timestamptz)"
_IS_THERE = "SELECT to_regclass(:table) IS NOT NULL"
_LOOK = f"""
    SELECT token, holder, extract(epoch FROM clock_timestamp() - greatest(beat, pg_postmaster_start_time())) AS age
    FROM {TABLE} WHERE study = :study"""
_PLACE = f"""
    INSERT INTO {TABLE} VALUES (:study, :token, :holder, clock_timestamp()) ON CONFLICT (study) DO UPDATE
    SET token = excluded.token, holder = excluded.holder, beat = excluded.beat WHERE {TABLE}.token = :before"""
_TOUCH = f"UPDATE {TABLE} SET beat = clock_timestamp() WHERE study = :study AND token = :token"
_RELEASE = f"DELETE FROM {TABLE} WHERE study = :study AND token = :token"
# A transaction that wrote nothing is let through; `FOR SHARE` lets nobody else take the row before it has ended.
_FENCE = f"""
    SELECT CASE WHEN txid_current_if_assigned() IS NULL THEN true
    ELSE EXISTS (SELECT 1 FROM {TABLE} WHERE study = :study AND token = :token FOR SHARE) END"""


class Lease:
    """The lease of a study `name` in the database at `url`; `held` takes it."""

    def __init__(self, url: str, name: str, *, beat: float = of_folder.BEAT_SECONDS):
        self._url, self._name, self._beat_seconds = url, name, beat
        self._stale = beat * of_folder.STALE_SECONDS / of_folder.BEAT_SECONDS
        self._engine = connections(url)
        self._mine = {"study": name, "token": secrets.token_hex(16)}
        self._lost = threading.Event()

    def elsewhere(self) -> Holder | None:
        """A holder whose life our process table cannot tell: the lease may take minutes. Raises StorageError."""
        with self._statements() as connection:
            row = self._row(connection)
        other = None if row is None else _holder(row)
        return other if other is not None and not of_folder.same_table(other) else None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study. Raises StudyBusy where another living coordinator holds it; StorageError."""
        self._take()
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join(self._beat_seconds)  # a server that is frozen answers nothing
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(text(_RELEASE), self._mine)

    def check(self) -> None:
        """Raise LeaseLost where it is known that another coordinator has taken the study over."""
        if self._lost.is_set():
            raise self._lease_lost()

    def fence(self, connection: sqlalchemy.Connection) -> None:
        """In a transaction, before it is committed: raises LeaseLost where the study is not ours to write to."""
        if not connection.execute(text(_FENCE), self._mine).scalar():
            self._lost.set()
            raise self._lease_lost()

    # -- inside

    @contextlib.contextmanager
    def _statements(self) -> Iterator[sqlalchemy.Connection]:
        with storage_errors(self._url), self._engine.begin() as connection:
            yield connection

    def _make_table(self) -> None:
        """Make the table where there is none: a user without the right to do so may find it made."""
        with self._statements() as connection:
            if _there(connection):
                return
        try:
            with self._statements() as connection:
                connection.execute(text(_MAKE))
        except StorageError:
            with self._statements() as connection:
                if not _there(connection):
                    raise  # else another study made it at the same moment

    def _row(self, connection: sqlalchemy.Connection) -> Any:
        if not _there(connection):
            return None
        return connection.execute(text(_LOOK), self._mine).one_or_none()

    def _take(self) -> None:
        me = {"holder": json.dumps(asdict(of_folder.this_process()))}
        self._make_table()
        before, since = None, time.monotonic()
        while True:
            with self._statements() as connection:
                row = self._row(connection)
                if row is None or self._dead(row):
                    taken = {**self._mine, **me, "before": None if row is None else row.token}
                    if connection.execute(text(_PLACE), taken).rowcount:
                        return
                    row = self._row(connection)  # another was faster
            if row is None:
                continue
            # One that our process table does not know shows that it lives by its next touch, which moves its age.
            moved = before is not None and (row.token != before.token or row.age < before.age)
            other = _holder(row)
            if moved or other is None or of_folder.same_table(other) or time.monotonic() - since > 2 * self._stale:
                raise self._busy(other)
            before = row
            time.sleep(min(1.0, self._beat_seconds / 4))

    def _dead(self, row: Any) -> bool:
        other = _holder(row)
        if other is not None and of_folder.same_table(other):
            return not of_folder.lives(other)
        return bool(row.age > self._stale)

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self._beat_seconds):
            # A beat that the server does not take is made up by the next; what is recorded meets the same, and says so.
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
                if not connection.execute(text(_TOUCH), self._mine).rowcount:
                    self._lost.set()

    def _busy(self, other: Holder | None) -> StudyBusy:
        who = "another process" if other is None else f"process {other.pid} on {other.host}, since {other.since}"
        return StudyBusy(
            f"{shown(self._url)}: the study `{self._name}` is held by {who}. Wait for it, or end it there with"
            " `meshtune stop`. If that is another study of the same name, give this one's folder another name."
        )

    def _lease_lost(self) -> LeaseLost:
        who = "another process"
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
            row = self._row(connection)
            if (other := None if row is None else _holder(row)) is not None:
                who = f"process {other.pid} on {other.host}"
        return LeaseLost(
            f"{shown(self._url)}: {who} has taken the study `{self._name}` over, since this one gave no sign of life"
            " for minutes (was it asleep, or cut off from the database?). It has written nothing since, and ends. The"
            " study goes on there."
        )


def _there(connection: sqlalchemy.Connection) -> bool:
    return bool(connection.execute(text(_IS_THERE), {"table": TABLE}).scalar())


def _holder(row: Any) -> Holder | None:
    try:
        return Holder(**json.loads(row.holder))
    except (ValueError, TypeError):  # as a later version may write it
        return None
