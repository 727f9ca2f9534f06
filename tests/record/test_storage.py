"""The storage is safe on a network disk: no write-ahead log, whose shared memory two hosts do not share.

And its password stands nowhere where others read.
"""

import gc
import re
import sqlite3
import subprocess
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from meshtune.cli.watch import watch
from meshtune.errors import InputError, MissingExtra, StorageError, StorageLost
from meshtune.record import storage
from meshtune.record.storage import open_storage, storage_errors
from meshtune.report.write import report
from meshtune.study.check import check
from meshtune.study.status import status
from tests.kill import command_study, meshtune, record_of, run
from tests.postgresql import postgresql, server
from tests.study.test_loop import opened

PASSWORD = "hunter2/p@ss"
WRITTEN = "hunter2%2Fp%40ss"


def test_sqlite_keeps_its_rollback_journal(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.note("some", "fact")
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    assert {path.name for path in tmp_path.iterdir()} == {"study.db"}


def test_no_connection_is_left_open(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.note("some", "fact")
    files = Path("/proc/self/fd")
    if files.exists():  # a file that is held open could not be removed from a network disk
        assert str(tmp_path / "study.db") not in {str(file.resolve()) for file in files.iterdir()}
    assert isinstance(record._storage._backend.engine.pool, sqlalchemy.NullPool)  # type: ignore[attr-defined]
    with postgresql() as url:
        held = open_storage(url)
        optuna.create_study(storage=held).set_user_attr("some", "fact")
        pool = held.engine.pool
        assert isinstance(pool, sqlalchemy.QueuePool)
        assert pool.checkedin()
        del held
        gc.collect()
        assert pool.checkedin() == 0


def told(folder: Path, printed: str) -> str:
    """What was printed, and all that stands in the study's folder but for its study.yaml."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "study.yaml"]
    return "".join([printed, *(file.read_text(encoding="utf-8", errors="replace") for file in files)])


def test_the_password_of_a_database_is_shown_nowhere_and_may_stand_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, out, one = command_study(tmp_path), tmp_path / "study", "budget.trials=1"
    effective = out / "study.yaml"
    with postgresql(PASSWORD) as url:
        held = url.replace("optuna@", f"optuna:{WRITTEN}@")
        ways = (
            (url.replace("optuna@", "optuna:${STUDY_DB}@"), {"STUDY_DB": PASSWORD}),
            (url, {"PGPASSWORD": PASSWORD}),
            ("${STUDY_URL}", {"STUDY_URL": held}),
        )
        for given, environment in ways:
            with monkeypatch.context() as variables:
                for name, value in environment.items():
                    variables.setenv(name, value)
                watch(path, overrides=(f"storage={given}", one))
                print(status(out))
            assert given in effective.read_text()
            assert "hunter2" not in effective.read_text()
            assert effective.stat().st_mode & 0o077
        with pytest.raises(InputError, match="storage: the environment variable `STUDY_URL` is not set"):
            status(out)
        watch(path, overrides=(f"storage={held}", one))
        assert effective.stat().st_mode & 0o777 == 0o600
        report([out])
        assert "optuna:***@" in (out / "report" / "index.html").read_text()
        text, facts = check(out)
        print(text, facts)
        assert "\nstorage    postgresql://optuna:***@" in text
    for command in (watch, status):
        with pytest.raises(StorageError, match=r"optuna:\*\*\*@\S*: cannot be read or written \(conn") as down:
            command(out)
        print(down.value)
    with pytest.raises(InputError) as wrong:
        watch(out, overrides=(f"storage=[{held}]",))
    print(wrong.value)
    captured = capfd.readouterr()
    assert "hunter2" not in told(out, captured.out + captured.err)


def test_check_says_who_can_read_a_password(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    path.write_text(path.read_text() + "storage: postgresql://me:pw@host/db\n")
    for mode, readable in ((0o644, True), (0o600, False)):
        path.chmod(mode)
        text, _ = check(path)
        assert "\nstorage    postgresql://me:***@host/db\n" in text
        assert ("others can read the password in it" in text) is readable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:hunter2", "postgresql://me:***"),
        ("postgresql://me:hunter2@host:5x/db", "postgresql://me:***@host:5x/db"),
        ("postgresql://me:hunt@er2@host/db", "postgresql://me:***@host/db"),
        ("postgresql//me:hunter2@host/db", "***"),
        ("foo://me:hunter2@host/db", "foo://me:***@host/db"),
        ("postgresql://me:${NOT_SET}@host/db", "postgresql://me:${NOT_SET}@host/db"),
    ],
)
def test_a_storage_of_the_command_line_is_named_without_its_password(tmp_path: Path, given: str, shown: str) -> None:
    path = command_study(tmp_path)
    with pytest.raises(InputError) as refused:
        check(path, overrides=(f"storage={given}",))
    assert str(refused.value).startswith(f"--set storage={shown}: storage: ")
    assert not {"study.yaml", "hunter2", "er2"} & set(re.split(r"[^\w.]", str(refused.value)))


def test_check_blames_no_file_for_a_password_of_the_command_line(tmp_path: Path) -> None:
    text, _ = check(command_study(tmp_path), overrides=("storage=postgresql://me:pw@host/db",))
    assert "--set storage: others can read a password on a command line" in text
    assert "study.yaml: others" not in text


@pytest.mark.parametrize("url", ["postgresql://me:pw@host:5x/db", "foo://me:pw@host/db"])
def test_what_is_no_database_is_one_message(url: str) -> None:
    with pytest.raises(InputError, match=r"storage: `\w+://me:\*\*\*@host\S*` is no URL of a database"):
        open_storage(url)


def test_a_driver_that_is_not_here_is_named() -> None:
    expected = pytest.raises(MissingExtra, match=r"mysql://me:\*\*\*@h needs the package `a driver for mysql`")
    with expected, storage_errors("mysql://me:pw@h"):
        open_storage("mysql://me:pw@h")


WAITS = """
import os, time
open(f"begun-{os.getpid()}", "w").close()
while not os.path.exists("go"):
    time.sleep(0.05)
"""


def test_a_database_that_restarts_is_waited_for(tmp_path: Path) -> None:
    whole = command_study(tmp_path / "whole", trials=4, sampler="random", block=2)
    assert run(whole).returncode == 0
    with server() as database:
        path = command_study(tmp_path, f"storage: {database.url}", trials=4, sampler="random", block=2)
        (tmp_path / "program.py").write_text(WAITS + (tmp_path / "program.py").read_text())
        with subprocess.Popen(meshtune("tune", path), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            while len(list(tmp_path.glob("begun-*"))) < 2:  # then nothing is written until they have ended
                assert process.poll() is None
                time.sleep(0.05)
            database.stop()
            (tmp_path / "go").touch()
            next(line for line in process.stderr if "database does not answer" in line and "waited for" in line)
            database.start()
            words = process.stderr.read()
        assert process.returncode == 0, words
        assert record_of(path) == record_of(whole)


def test_one_that_does_not_come_back_ends_the_run_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(storage, "LONGEST_PAUSE", 1.0)
    with server() as database:
        opened_once = storage.open_storage(database.url)
        study = optuna.create_study(storage=opened_once)
        database.stop()
        with (
            pytest.raises(StorageLost, match=r"has not answered for .* run the same command again") as caught,
            storage.storage_errors(),
        ):
            study.set_user_attr("after", 2)
        assert caught.value.exit_code == 75
        database.start()
        study.set_user_attr("again", 3)
        assert study.user_attrs == {"again": 3}
        with (
            pytest.raises(StorageLost, match=r"database went away, .* run the same command again"),
            storage.storage_errors(),
            opened_once.engine.connect() as connection,
        ):
            connection.execute(sqlalchemy.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        opened_once.engine.dispose()


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it holds no study"), (b"garbage" * 100, "file is not a database"), (None, "malformed")],
)
def test_a_damaged_record_is_one_message_that_says_what_to_do(tmp_path: Path, content: bytes | None, why: str) -> None:
    opened(tmp_path)
    database = tmp_path / "study.db"
    database.write_bytes(database.read_bytes()[:20_000] if content is None else content)
    (tmp_path / "study.yaml").write_text(command_study(tmp_path / "program").read_text())
    for command in (status, watch):
        with pytest.raises(StorageError, match=rf"^{database}: the study's record is damaged \(.*{why}\)\. Put a copy"):
            command(tmp_path)
