"""A record on a PostgreSQL server that is restarted, that holds others' locks, and that others read meanwhile."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from meshtune.record import storage
from meshtune.record.log import Record
from meshtune.trial import Ending, Outcome
from tests.kill import command_study, meshtune, record_of, run
from tests.postgresql import Server, server
from tests.study.test_loop import SPACE


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.05)


class Breaking:
    """A fence that breaks the connection of one transaction that wrote: before its commit, or behind it."""

    def __init__(self, url: str, which: int, *, behind: bool):
        self._left, self._behind = which, behind
        self._other = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        self.broke = False

    def __call__(self, connection: sqlalchemy.Connection) -> None:
        if connection.exec_driver_sql("SELECT txid_current_if_assigned()").scalar() is None:
            return
        self._left -= 1
        if self._left == 0:
            process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            if self._behind:
                raw: Any = connection.connection.dbapi_connection
                raw.commit()  # it is written, and whoever wrote it does not learn of that
                raw.execute("SELECT 1")
            with self._other.connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({process})")
            self.broke = True


def story(url: str, name: str, fence: Any = None) -> Record:
    """A record of two trials, one of them finished."""
    record = Record(url, name, SPACE, fixed={"seed": 0}, fence=fence)
    for number in range(2):
        record.enqueue({"x": 0.25 * number, "k": 1}, origin="enqueued", seed=0)
    record.tell(Outcome(0, 1, Ending.DIVERGED, losses=(float("nan"),)), elapsed=2.0)
    record.note("some", "fact")
    return record


def stored(url: str, name: str) -> str:
    """All that the storage holds of a study, moments and the database's own numbers left out."""
    study = optuna.load_study(study_name=name, storage=storage.open_storage(url))
    of_trial = ("number", "state", "values", "params", "user_attrs", "system_attrs", "intermediate_values")
    trials = [{key: getattr(trial, key) for key in of_trial} for trial in study.trials]
    return json.dumps([study.user_attrs, trials], default=str, sort_keys=True)


@pytest.mark.parametrize("behind", [False, True])
def test_a_connection_that_breaks_in_any_write_loses_and_doubles_nothing(
    database: Server, behind: bool, caplog: pytest.LogCaptureFixture
) -> None:
    whole = story(database.url, f"whole-{behind}")
    for which in range(3, 20):  # the first two make the study, which the same command does again
        broken, name = Breaking(database.url, which, behind=behind), f"broken-{behind}-{which}"
        caplog.clear()
        record = story(database.url, name, broken)
        if not broken.broke:
            assert which == 3 + 4  # two proposals, a tell and a note: a transaction each
            break
        read = Record(database.url, name).trials
        written = [dataclasses.replace(trial, outcome=None) for trial in whole.trials]
        assert [dataclasses.replace(trial, outcome=None) for trial in read] == written
        assert stored(database.url, name) == stored(database.url, f"whole-{behind}")
        assert len(record.trials) == 2
    else:
        pytest.fail("the last write was not reached")


def test_a_lock_of_another_session_is_waited_for_with_a_word(
    database: Server, caplog: pytest.LogCaptureFixture
) -> None:
    record = Record(f"{database.url}&options=-c%20lock_timeout%3D300ms", "locked", SPACE, fixed={})
    engine = sqlalchemy.create_engine(database.url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE study_user_attributes")
        writing = threading.Thread(target=record.note, args=("some", "fact"))
        writing.start()
        while "another session holds a lock" not in caplog.text:
            time.sleep(0.05)
    writing.join()
    assert Record(database.url, "locked").notes["some"] == "fact"


def test_a_server_without_limits_gets_ours_and_a_limit_of_the_user_stays(database: Server) -> None:
    asked = [f"SHOW {name}" for name in storage.LIMITS]
    for url, expected in (
        (database.url, ["1min", "30s", "1min"]),
        (f"{database.url}&options=-c%20statement_timeout%3D7s", ["7s", "30s", "1min"]),
    ):
        held = storage.open_storage(url)
        with held.engine.connect() as connection:
            assert [connection.exec_driver_sql(one).scalar() for one in asked] == expected


READER = """
import sys, optuna
studies, most = {}, 0
while most < int(sys.argv[2]):
    try:
        for name in optuna.get_all_study_names(sys.argv[1]):
            trials = optuna.load_study(study_name=name, storage=sys.argv[1]).trials
            studies[name] = len([trial for trial in trials if trial.state.is_finished()])
    except Exception as error:
        if "connect" not in str(error.__cause__ or error):
            raise
    most = sum(studies.values())
print(sorted(studies.items()))
"""


def restarted(tmp_path: Path, database: Server, restarts: int, trials: int) -> None:
    """Two studies in one database that is restarted again and again, while another program reads them."""
    line = f"storage: {database.url}"
    folders = [tmp_path / name for name in ("one", "two")]
    paths = [command_study(folder, line, trials=trials, sampler="random") for folder in folders]
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, database.url, str(2 * trials)], stdout=subprocess.PIPE, text=True
    )
    logs = [(folder / "log").open("w") for folder in folders]
    running = [
        subprocess.Popen(meshtune("tune", path, "--folder", folder / folder.name), stderr=log, stdout=log)
        for path, folder, log in zip(paths, folders, logs, strict=True)
    ]
    for number in range(restarts):
        while not all((folder / "finished.log").exists() for folder in folders):
            time.sleep(0.05)
        time.sleep(0.7 * number)
        database.restart()
    for process, log in zip(running, logs, strict=True):
        process.wait(timeout=600)
        log.close()
    whole = command_study(tmp_path / "whole", trials=trials, sampler="random")
    assert run(whole).returncode == 0
    for process, folder in zip(running, folders, strict=True):
        assert process.returncode == 0, (folder / "log").read_text()
        assert record_of(folder / folder.name) == record_of(whole)
        assert runs_of(folder) == runs_of(whole.parent)  # none ran twice
    assert reader.communicate(timeout=120)[0] == f"{[('one', trials), ('two', trials)]}\n"


def runs_of(folder: Path) -> list[str]:
    return sorted((folder / "finished.log").read_text().split())


@pytest.mark.slow
def test_two_studies_go_on_through_a_restart_while_others_read(tmp_path: Path) -> None:
    with server() as database:
        restarted(tmp_path, database, restarts=1, trials=12)


@pytest.mark.slow
def test_two_studies_go_on_through_many_restarts(tmp_path: Path) -> None:
    with server() as database:
        restarted(tmp_path, database, restarts=4, trials=40)
