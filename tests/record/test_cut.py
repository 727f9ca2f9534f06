"""A PostgreSQL server that is frozen for longer than its limits, and a network that is cut and comes back."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy

from meshtune.record import storage
from meshtune.record.log import Record
from tests.kill import command_study, meshtune, record_of, run
from tests.postgresql import Server, server
from tests.record.test_server import runs_of, stored, story
from tests.tcp_proxy import Proxy, proxy

LIMITS = "options=-c%20statement_timeout%3D1s%20-c%20idle_in_transaction_session_timeout%3D1s"


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def network(database: Server) -> Iterator[Proxy]:
    with proxy(database.socket) as running:
        yield running


def through(network: Proxy) -> str:
    return f"postgresql://optuna@127.0.0.1:{network.port}/postgres?{LIMITS}"


class In:
    """A fence that does something in one transaction that wrote, right before its commit."""

    def __init__(self, which: int, something: Callable[[], None]):
        self._left, self._something = which, something

    def __call__(self, connection: sqlalchemy.Connection) -> None:
        if connection.exec_driver_sql("SELECT txid_current_if_assigned()").scalar() is not None:
            self._left -= 1
            if self._left == 0:
                self._something()


def later(seconds: float, *actions: Callable[[], None]) -> None:
    """Do these one after the other, with a pause before each."""

    def do() -> None:
        for action in actions:
            time.sleep(seconds)
            action()

    threading.Thread(target=do).start()


@pytest.mark.parametrize(
    "answered", [pytest.param(True, marks=pytest.mark.slow), False], ids=["not-asked", "not-answered"]
)
@pytest.mark.parametrize("reset", [pytest.param(False, marks=pytest.mark.slow), True], ids=["closed", "reset"])
def test_a_network_that_is_cut_in_any_write_loses_and_doubles_nothing(
    database: Server, network: Proxy, monkeypatch: pytest.MonkeyPatch, reset: bool, answered: bool
) -> None:
    """Before the server learns of the commit, and where it did while its answer was lost."""
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.05)
    story(database.url, f"whole-{reset}-{answered}")

    def cut() -> None:
        if answered:
            network.cut(reset=reset)
            later(0.3, network.back)
        else:
            network.answers.clear()
            later(0.3, lambda: network.cut(reset=reset), network.back)

    for which in (3, 4, 5, 6):  # two proposals, a tell, a note; what comes before makes the study
        name = f"cut-{reset}-{answered}-{which}"
        story(through(network), name, In(which, cut))
        assert stored(database.url, name) == stored(database.url, f"whole-{reset}-{answered}")


@pytest.mark.parametrize("which", [pytest.param(3, marks=pytest.mark.slow), 5])
def test_a_frozen_server_that_goes_on_past_its_limits_loses_and_doubles_nothing(
    database: Server, network: Proxy, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.05)
    story(database.url, f"calm-{which}")

    def freeze() -> None:
        database.freeze()
        later(2.5, database.thaw)

    story(through(network), f"frozen-{which}", In(which, freeze))
    assert stored(database.url, f"frozen-{which}") == stored(database.url, f"calm-{which}")


@pytest.mark.slow
def test_a_network_that_holds_everything_back_for_a_while_is_waited_for(database: Server, network: Proxy) -> None:
    story(database.url, "fluent")

    def hold() -> None:
        network.flows.clear()
        later(2.5, network.flows.set)

    story(through(network), "held", In(5, hold))
    assert stored(database.url, "held") == stored(database.url, "fluent")


# `tune` that has less patience than it has by itself.
IMPATIENT = """
import runpy
from meshtune.record import storage
storage.PATIENCE_SECONDS, storage.FIRST_PAUSE = 2.0, 0.25
runpy.run_module("meshtune.cli", run_name="__main__")
"""


@pytest.mark.slow
def test_a_study_lives_through_a_server_that_freezes_and_a_network_that_is_cut(tmp_path: Path) -> None:
    """Or ends with 75 and one message where that lasts too long, and goes on when it is run again."""
    whole = command_study(tmp_path / "whole", trials=24, sampler="random")
    assert run(whole).returncode == 0
    with server() as database, proxy(database.socket) as network:
        folder = tmp_path / "study"
        path = command_study(folder, f"storage: {through(network)}", trials=24, sampler="random")

        def reached(trials: int) -> None:
            while len(runs_of(folder)) < trials:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)

        with (folder / "log").open("w") as log:
            process = subprocess.Popen(meshtune("tune", path), stdout=log, stderr=log)
            (folder / "finished.log").touch()
            reached(4)
            database.freeze()
            time.sleep(4.0)
            database.thaw()
            for trials, reset in ((8, False), (12, True)):
                reached(trials)
                network.cut(reset=reset)
                time.sleep(2.0)
                network.back()
            reached(15)
            process.kill()
            process.wait(timeout=60)
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "tune", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        # It has opened the database, and goes on: one that is away when a study is opened is an error of the input.
        for line in process.stderr:
            if "] trial " in line:
                break
        network.cut(reset=True)
        words = process.communicate(timeout=300)[1]
        assert process.returncode == 75, words
        assert words.count("meshtune: ") == 1, words
        assert "has not answered" in words
        network.back()
        again = subprocess.run(meshtune("tune", path), capture_output=True, text=True, timeout=600, check=False)
        assert again.returncode == 0, again.stderr
        assert record_of(folder / "study") == record_of(whole)
        assert [trial["order"] for trial in told(through(network))] == list(range(24))


def told(url: str) -> list[dict[str, object]]:
    """The tells of the study, in their order."""
    trials = [trial for trial in Record(url, "study").finished if trial.outcome is not None]
    assert len({trial.number for trial in trials}) == len(trials)
    return [json.loads(json.dumps({"trial": trial.number, "order": trial.order})) for trial in trials]
