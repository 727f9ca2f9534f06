"""Processes that take what they are given from files keep the worker contract."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start
from meshtune.testing.processes import gone
from meshtune.testing.workers import WorkerContract, collect
from meshtune.trial import Ending, Request
from meshtune.workers.interface import Worker
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.spool import SpoolWorker
from tests.workers.test_local import TrainingContract, program_pid, spec


def process(folder: Path) -> subprocess.Popen[bytes]:
    command = child_start.command("meshtune.workers.spool", "--spool", str(folder / "spool"))
    return subprocess.Popen(command, start_new_session=True)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for one in processes:
        one.kill()
        one.wait()


def spool(
    folder: Path, started: list[subprocess.Popen[bytes]], count: int = 2, objective: ObjectiveSpec | None = None
) -> SpoolWorker:
    worker = SpoolWorker(objective or spec(folder), ProcessSpec("cpu", {}, 1), folder)
    started += [process(folder) for _ in range(count)]
    until = time.monotonic() + 120
    while worker.free() < count:
        worker.events(0.1)
        assert time.monotonic() < until
    return worker


class TestSpool(WorkerContract):
    @pytest.fixture(autouse=True)
    def _started(self, started: list[subprocess.Popen[bytes]]) -> None:
        self.started = started

    def make(self, folder: Path) -> Worker:
        return spool(folder, self.started)


@pytest.mark.slow
class TestDeciding(TrainingContract):
    @pytest.fixture(autouse=True)
    def _started(self, started: list[subprocess.Popen[bytes]]) -> None:
        self.started = started

    def make(self, folder: Path) -> Worker:
        return spool(folder, self.started, 1, self.objective(folder))


def test_a_process_that_is_killed_is_given_up_and_another_takes_its_place(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = spool(tmp_path, started, 1)
    monkeypatch.setattr("meshtune.workers.spool.SILENCE_SECONDS", 1.0)
    worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
    program = program_pid(tmp_path)
    os.kill(started[0].pid, signal.SIGKILL)
    assert gone([program])
    (outcome,) = collect(worker, 1)
    assert outcome.ending is Ending.CRASHED
    assert "gave no sign of life" in outcome.message
    monkeypatch.undo()
    started.append(process(tmp_path))
    until = time.monotonic() + 120
    while not worker.free():
        worker.events(0.1)
        assert time.monotonic() < until
    worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
    assert [one.loss for one in collect(worker, 1)] == [9.0]
    worker.close()
    assert started[1].wait(30) == 0


def test_processes_join_the_session_of_a_coordinator_that_was_started_again(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    first = spool(tmp_path, started, 1)
    first.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
    program = program_pid(tmp_path)
    first._closed.set()  # it was killed: nobody asked for the end
    again = SpoolWorker(spec(tmp_path), ProcessSpec("cpu", {}, 1), tmp_path)
    until = time.monotonic() + 120
    while not again.free():
        again.events(0.1)
        assert time.monotonic() < until
    assert gone([program])
    again.submit([Request(0, {"x": 2.0, "do": "answer"}, seed=0)])
    assert [one.loss for one in collect(again, 1)] == [4.0]
    again.close()
    assert started[0].wait(30) == 0
