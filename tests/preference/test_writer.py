"""Writes of many threads: each is whole, those that fail fail alone."""

import sqlite3
import threading
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.preference.store import Saved, Store, Vote, Writer, connect
from tests.preference.made import made


def test_a_write_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    connect(tmp_path / "x.db").execute("CREATE TABLE t (n INTEGER PRIMARY KEY)").connection.close()
    writer = Writer(tmp_path / "x.db")

    def twice(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (100)")
        raise InputError("half-way")

    futures = [
        writer.write(lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", (n % 5,)).lastrowid) for n in range(10)
    ]
    failed = writer.write(twice)
    writer.close()
    assert [future.exception() is None for future in futures] == [True] * 5 + [False] * 5
    assert isinstance(failed.exception(), InputError)
    with connect(tmp_path / "x.db") as connection:
        assert [row[0] for row in connection.execute("SELECT n FROM t")] == [0, 1, 2, 3, 4]
    connection.close()


def vote(position: int, revision: int, choice: str = "a") -> Vote:
    return Vote(position, revision, choice, None, "", None)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(made(tmp_path / "p", questions=3, annotators=2))


def test_a_vote_is_one_however_often_it_is_sent(store: Store) -> None:
    sent = []

    def send() -> None:
        sent.extend(store.vote(1, vote(1, 1)).result() for _ in range(10))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sent.count(Saved.SAVED) == 1
    assert sent.count(Saved.REPEATED) == 39
    store.close()


def test_a_page_that_is_no_longer_true_changes_nothing(store: Store) -> None:
    assert store.vote(1, vote(1, 1)).result() is Saved.SAVED
    assert store.vote(1, vote(1, 1, "b")).result() is Saved.STALE
    assert store.vote(1, vote(1, 2, "b")).result() is Saved.SAVED
    assert store.vote(1, vote(1, 2, "b")).result() is Saved.REPEATED
    assert store.vote(1, vote(3, 1)).result() is Saved.STALE  # the second comes first
    current = store.current(1, 1)
    assert current is not None
    assert (current.choice, current.revision, store.answered(1)) == ("b", 2, 1)
    assert not store.finish(1).result()
    for position in (2, 3):
        assert store.vote(1, vote(position, 1)).result() is Saved.SAVED
    assert store.finish(1).result()
    assert store.vote(1, vote(1, 3, "tie")).result() is Saved.CLOSED
    store.end().result()
    assert store.vote(2, vote(1, 1)).result() is Saved.CLOSED
    store.close()
