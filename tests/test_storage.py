"""The storage is safe on a network disk: no write-ahead log, whose shared memory two hosts do not share.

And its password stands nowhere where others read.
"""

import gc
import sqlite3
from pathlib import Path

import pytest

from meshtune.commands.check import check
from meshtune.commands.report import report
from meshtune.commands.status import status
from meshtune.commands.watch import watch
from meshtune.errors import InputError, MissingExtra, StorageError
from meshtune.storage import open_storage, storage_errors
from tests.kill import command_study
from tests.postgresql import postgresql
from tests.test_study import opened

PASSWORD = "hunter2/p@ss"
WRITTEN = "hunter2%2Fp%40ss"


def test_sqlite_keeps_its_rollback_journal(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.note("some", "fact")
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    assert {path.name for path in tmp_path.iterdir()} == {"study.db"}


def told(folder: Path, printed: str) -> str:
    """What was printed, and all that stands in the study's folder but for its study.yaml."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "study.yaml"]
    return "".join([printed, *(file.read_text(encoding="utf-8", errors="replace") for file in files)])


# Optuna leaves a server's connections to the end of the process
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
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
    gc.collect()  # the connections: here, where their warnings are ignored


def test_check_says_who_can_read_a_password(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    path.write_text(path.read_text() + "storage: postgresql://me:pw@host/db\n")
    for mode, readable in ((0o644, True), (0o600, False)):
        path.chmod(mode)
        text, _ = check(path)
        assert "\nstorage    postgresql://me:***@host/db\n" in text
        assert ("others can read the password in it" in text) is readable


@pytest.mark.parametrize("url", ["postgresql://me:pw@host:5x/db", "foo://me:pw@host/db"])
def test_what_is_no_database_is_one_message(url: str) -> None:
    with pytest.raises(InputError, match=r"storage: `\w+://me:\*\*\*@host\S*` is no URL of a database"):
        open_storage(url)


def test_a_driver_that_is_not_here_is_named() -> None:
    expected = pytest.raises(MissingExtra, match=r"mysql://me:\*\*\*@h needs the package `a driver for mysql`")
    with expected, storage_errors("mysql://me:pw@h"):
        open_storage("mysql://me:pw@h")
