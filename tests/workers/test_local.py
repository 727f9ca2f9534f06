"""The local worker keeps the worker contract and leaves no process behind."""

import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.errors import WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraSpec
from meshtune.system import child_start
from meshtune.system.children import Child
from meshtune.testing.processes import gone
from meshtune.testing.workers import DecidingContract, WorkerContract, collect, rung_of
from meshtune.trial import DataRef, Decision, Ending, Outcome, Progress, Request, Verdict
from meshtune.workers.interface import Worker
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec

PROGRAM = """
import json, os, signal, sys, time
x, do = float(sys.argv[1]), sys.argv[2]
open("pid", "w").write(str(os.getpid()))
if do == "sleep":
    time.sleep(60)
if do == "die":
    os.kill(int(open(f"/proc/{os.getppid()}/stat").read().split()[3]), signal.SIGKILL)
    time.sleep(60)
print(json.dumps({"loss": x * x}))
"""


def spec(folder: Path) -> ObjectiveSpec:
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "{x}", "{do}"]
    fields = {"command": command, "result": "loss", "folder": str(folder), "directory": str(folder)}
    return ObjectiveSpec("command", fields)


def seen(folder: Path) -> ObjectiveSpec:
    """A program whose loss is the number of its GPU."""
    text = "import os; print('{\"loss\":', os.environ['CUDA_VISIBLE_DEVICES'] or -1, '}')"
    fields = {
        "command": [sys.executable, "-c", text],
        "result": "loss",
        "folder": str(folder),
        "directory": str(folder),
    }
    return ObjectiveSpec("command", fields)


def local(folder: Path, count: int = 2, **seconds: float) -> LocalWorker:
    return LocalWorker(spec(folder), [ProcessSpec("cpu", {}, 1)] * count, folder, **seconds)


class TrainingContract(DecidingContract):
    """Over trainings of the tiny model."""

    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path, tiny_data: DataRef) -> None:
        self.model, self.data = tiny_model_folder, tiny_data

    def objective(self, folder: Path) -> ObjectiveSpec:
        training = TrainingConfig(batch_size=8, precision="float32", epochs=1)
        model = ModelConfig(name=str(self.model))
        spec = LoraSpec(model=model, training=training, data=self.data, at="last", folder=str(folder), rung_rows=5)
        return ObjectiveSpec("lora", spec.model_dump(mode="json"))

    def request(self, trial: int) -> Request:
        return Request(trial, {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.01}, seed=0, threads=1)


class TestDeciding(TrainingContract):
    def make(self, folder: Path) -> LocalWorker:
        return LocalWorker(self.objective(folder), [ProcessSpec("cpu", {}, 1)], folder)

    @pytest.mark.slow
    def test_a_process_is_killed_while_it_waits(self, tmp_path: Path) -> None:
        """All that ran has crashed, what had joined too; late words are dropped."""
        worker = self.make(tmp_path)
        try:
            worker.submit([self.asking(0), self.asking(1)])
            rung = rung_of(worker)
            assert worker.join(0, self.request(2))
            os.kill(worker.pids[0], signal.SIGKILL)
            crashed = collect(worker, 3)
            assert [(each.trial, each.ending) for each in crashed] == [(n, Ending.CRASHED) for n in range(3)]
            worker.decide(Decision(rung.pack, rung.attempt, ((0, 1, Verdict.STOPS),)))
            assert not worker.join(0, self.request(2))
            assert worker.free() == 1
        finally:
            worker.close()


class TestLocal(WorkerContract):
    def make(self, folder: Path) -> Worker:
        return local(folder)


def test_a_file_of_the_working_folder_takes_no_modules_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    worker = local(tmp_path, count=1)
    try:
        worker.submit([Request(0, {"x": 2.0, "do": "answer"}, seed=0)])
        (outcome,) = collect(worker, 1)
    finally:
        worker.close()
    assert outcome.ending is Ending.COMPLETE


def program_pid(folder: Path) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (folder / "pid").exists() and (folder / "pid").read_text():
            return int((folder / "pid").read_text())
        time.sleep(0.05)
    raise AssertionError("the program did not start")


@pytest.mark.parametrize("how", ["close", "kill the worker process"])
def test_the_program_ends_with_its_worker(tmp_path: Path, how: str) -> None:
    worker = local(tmp_path, 1)
    try:
        children = worker.pids
        worker.submit([Request(0, {"x": 1, "do": "sleep"}, seed=0)])
        program = program_pid(tmp_path)
        if how == "close":
            worker.close()
        else:
            os.kill(children[0], signal.SIGKILL)
            (outcome,) = collect(worker, 1)
            assert outcome.ending is Ending.CRASHED
            assert "signal 9" in outcome.message
        assert gone([program, *children])
    finally:
        if how != "close":
            worker.close()


def test_what_ended_while_it_was_suspended_is_not_lost(tmp_path: Path) -> None:
    """It was evaluated to its end; the processes are gone, and asking again gives nothing."""
    worker = local(tmp_path, 1)
    try:
        children = worker.pids
        while not worker._children[0].ready:
            worker.events(0.05)
        worker.submit([Request(0, {"x": 3, "do": "answer"}, seed=0)])
        assert gone([program_pid(tmp_path)])
        worker._selector.select(20)  # the outcome is on its way and nobody has read it
        worker.suspend(20)
        assert [outcome.loss for outcome in collect(worker, 1)] == [9]
        assert gone(children)
        assert worker.events(0.1) == []
    finally:
        worker.close()


def test_what_does_not_end_when_suspended_is_killed(tmp_path: Path) -> None:
    """A process that is still starting when the time is over."""
    worker = local(tmp_path, 1)
    try:
        children = worker.pids
        worker.submit([Request(0, {"x": 3, "do": "sleep"}, seed=0)])
        worker.suspend(0.0)
        assert gone(children)
        assert worker.events(0.1) == []
    finally:
        worker.close()


def test_a_timeout_counts_from_the_first_word(tmp_path: Path) -> None:
    """Loading is no part of it, however slow; and each request has a clock of its own."""
    worker = local(tmp_path, 1, grace=0)
    try:
        (child,) = worker.pids
        os.kill(child, signal.SIGSTOP)  # as one that loads for long
        worker.submit([Request(0, {"x": 3, "do": "answer"}, seed=0, timeout=1.5)])
        time.sleep(1.6)
        assert worker.events(0) == []
        os.kill(child, signal.SIGCONT)
        assert [outcome.loss for outcome in collect(worker, 1)] == [9]
        worker.submit([Request(1, {"x": 3, "do": "sleep"}, seed=0, timeout=1.5)])
        assert isinstance(worker.events(20)[0], Progress)
        os.kill(child, signal.SIGSTOP)  # as one that hangs
        (outcome,) = collect(worker, 1)
        assert (outcome.ending, outcome.message[:31]) == (Ending.TIMED_OUT, "the process did not end at the ")
        assert gone([child])
    finally:
        worker.close()


def test_one_that_never_says_a_word_has_crashed(tmp_path: Path) -> None:
    worker = local(tmp_path, 1, load=0)
    try:
        worker.submit([Request(0, {"x": 3, "do": "answer"}, seed=0)])
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        assert "said nothing" in outcome.message
    finally:
        worker.close()


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_frozen_is_replaced(tmp_path: Path, begun: bool) -> None:
    """Long before the hour that a slow load may take, and in a trial that no timeout would end.

    But not where this process slept as long.
    """
    worker = local(tmp_path, 1)
    try:
        (child,) = worker.pids
        if begun:
            worker.submit([Request(0, {"x": 3, "do": "sleep"}, seed=0)])
            assert isinstance(worker.events(60)[0], Progress)
        os.kill(child, signal.SIGSTOP)
        if not begun:
            worker.submit([Request(0, {"x": 3, "do": "sleep"}, seed=0)])
        worker._clock._looked -= 100_000  # as one that slept for a day
        assert not [event for event in worker.events(1) if isinstance(event, Outcome)]
        worker._silence = 2.0
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        assert "no sign of life" in outcome.message
        assert gone([child])
        worker._silence = 300.0
        worker.submit([Request(0, {"x": 3, "do": "answer"}, seed=0, attempt=2)])
        assert [outcome.loss for outcome in collect(worker, 1)] == [9]
    finally:
        worker.close()


def test_a_process_at_work_gives_signs_of_life(tmp_path: Path) -> None:
    """Also while it has nothing to say, as one that loads; they are no events."""
    worker = local(tmp_path, 1)
    try:
        while not worker._children[0].ready:
            assert worker.events(0.05) == []
        heard = worker._children[0].heard
        while worker._children[0].heard == heard:
            assert worker.events(0.05) == []
    finally:
        worker.close()


def test_a_process_that_cannot_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    worker = LocalWorker(ObjectiveSpec("no such kind", {}), [ProcessSpec("cpu", {}, 1)], tmp_path)
    try:
        with pytest.raises(WorkerError, match="unknown objective"):
            collect(worker, 1)
    finally:
        worker.close()


def test_a_process_ends_at_a_line_that_it_cannot_read(tmp_path: Path) -> None:
    """Such as one of another version: else it would stay when its coordinator has gone."""
    child = Child(child_start.command("meshtune.workers.child"), log=tmp_path / "log")
    start = {"objective": asdict(spec(tmp_path)), "device": "cpu", "threads": 1, "devices": 1, "sharded": False}
    child.send(start)
    child.send({"kind": "of another version"})
    assert child.wait() == 1
    assert "of another version" in (tmp_path / "log").read_text()
    child.close()
