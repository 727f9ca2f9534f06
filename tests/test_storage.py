"""The storage is safe on a network disk: no write-ahead log, whose shared memory two hosts do not share."""

import sqlite3
from pathlib import Path

from tests.test_study import opened


def test_sqlite_keeps_its_rollback_journal(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.note("some", "fact")
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    assert {path.name for path in tmp_path.iterdir()} == {"study.db"}
