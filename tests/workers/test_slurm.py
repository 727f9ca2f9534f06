"""SLURM's jobs by submitit, on its executor for this machine."""

import os
import signal
import time
from pathlib import Path

import pytest

from meshtune.config.sections import WorkerConfig
from meshtune.errors import InputError, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.testing.processes import gone
from meshtune.testing.workers import WorkerContract, collect
from meshtune.trial import Ending, Request
from meshtune.workers import slurm
from meshtune.workers.interface import Worker
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.slurm import SlurmWorker
from tests.workers.test_local import TrainingContract, program_pid, seen, spec

SECTION = WorkerConfig(name="slurm", cluster="local", processes=2)


def jobs(folder: Path, count: int = 2, objective: ObjectiveSpec | None = None) -> SlurmWorker:
    worker = SlurmWorker(SECTION, objective or spec(folder), [ProcessSpec("cpu", {}, 1)] * count, folder)
    until = time.monotonic() + 120
    while worker.free() < count:
        worker.events(0.1)
        assert time.monotonic() < until
    return worker


class TestSlurm(WorkerContract):
    def make(self, folder: Path) -> Worker:
        return jobs(folder)


@pytest.mark.slow
def test_a_program_sees_the_gpus_of_its_job(tmp_path: Path) -> None:
    """Which are no real ones here: submitit's executor for this machine names them to the job as SLURM does."""
    worker = SlurmWorker(
        SECTION, seen(tmp_path), [ProcessSpec("cpu", {"CUDA_VISIBLE_DEVICES": "7"}, 1, gpus=1)], tmp_path
    )
    try:
        worker.submit([Request(0, {"x": 1.0, "do": "answer"}, seed=0)])
        assert [one.loss for one in collect(worker, 1)] == [0.0]
    finally:
        worker.close()


@pytest.mark.slow
class TestDeciding(TrainingContract):
    def make(self, folder: Path) -> Worker:
        return jobs(folder, 1, self.objective(folder))


def test_a_job_that_ends_is_submitted_again_and_its_trial_is_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.2)
    worker = jobs(tmp_path, 1)
    try:
        (name,) = worker._processes
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        program = program_pid(tmp_path)
        os.kill(int(name.rpartition("-")[2]), signal.SIGKILL)
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        assert "ended with its job" in outcome.message
        assert gone([program])
        until = time.monotonic() + 120
        while not worker.free():
            worker.events(0.1)
            assert time.monotonic() < until
        assert worker._processes.keys() != {name}
        worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
        assert [one.loss for one in collect(worker, 1)] == [9.0]
    finally:
        worker.close()


def test_what_sbatch_does_not_know_and_a_machine_without_slurm_are_one_message_each(tmp_path: Path) -> None:
    process = [ProcessSpec("cpu", {}, 1)]
    with pytest.raises(InputError, match=r"worker.slurm: .*sbatch"):
        SlurmWorker(WorkerConfig(name="slurm", processes=1), spec(tmp_path), process, tmp_path)
    wrong = WorkerConfig(name="slurm", processes=1, cluster="local", slurm={"partitoin": "gpu"})
    with pytest.raises(InputError, match=r"worker.slurm: .*partitoin"):
        SlurmWorker(wrong, spec(tmp_path), process, tmp_path)


def test_jobs_that_end_at_once_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr("meshtune.system.child_start.command", lambda *_: ["sh", "-c", "echo no module >&2; exit 1"])
    with pytest.raises(WorkerError, match="3 jobs ended before they could evaluate"):
        jobs(tmp_path, 1)
