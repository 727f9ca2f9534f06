"""Jobs of a real SLURM of one node, with accounting: cancelled, found again, and a study's record in the end."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune.config.sections import WorkerConfig
from meshtune.errors import InputError
from meshtune.testing.workers import collect
from meshtune.trial import Ending, Request
from meshtune.workers import slurm
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.slurm import SlurmWorker
from tests.kill import record_of, run, run_apart
from tests.slurm_cluster import SlurmCluster, missing
from tests.test_ray_study import study
from tests.workers.test_local import program_pid, spec

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster")
    yield cluster
    cluster.close()


@pytest.fixture(autouse=True)
def _environment(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.environment[name])
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 1.0)


def jobs(folder: Path, count: int) -> SlurmWorker:
    section = WorkerConfig(name="slurm", processes=count, slurm={"time": 30})
    worker = SlurmWorker(section, spec(folder), [ProcessSpec("cpu", {}, 1)] * count, folder)
    until_free(worker, count)
    return worker


def until_free(worker: SlurmWorker, count: int) -> None:
    until = time.monotonic() + 120
    while worker.free() < count:
        worker.events(0.1)
        assert time.monotonic() < until


def test_a_cancelled_job_is_submitted_again_and_its_trial_is_another_attempt(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    worker = jobs(tmp_path, 2)
    try:
        first, second = worker._jobs
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        program_pid(tmp_path)
        (busy,) = (name for name, process in worker._processes.items() if process.running)
        cluster.command("scancel", busy.partition(".")[0])
        (outcome,) = collect(worker, 1)
        assert outcome.ending is Ending.CRASHED
        until = time.monotonic() + 120  # `sacct` is asked once a minute
        while len({first, second} & worker._jobs.keys()) == 2 or worker.free() < 2:
            worker.events(0.1)
            assert time.monotonic() < until
        worker.submit([Request(0, {"x": 3.0, "do": "answer"}, seed=0, attempt=2)])
        assert [one.loss for one in collect(worker, 1)] == [9.0]
    finally:
        worker.close()
    until = time.monotonic() + 60
    while cluster.command("squeue", "-h"):
        assert time.monotonic() < until, "jobs outlived the study"
        time.sleep(0.5)


def test_a_coordinator_that_was_started_again_finds_its_jobs(cluster: SlurmCluster, tmp_path: Path) -> None:
    first = jobs(tmp_path, 1)
    numbers = list(first._jobs)
    first._closed.set()  # it was killed: nobody asked for the end
    again = jobs(tmp_path, 1)
    try:
        assert list(again._jobs) == numbers
        again.submit([Request(0, {"x": 2.0, "do": "answer"}, seed=0)])
        assert [one.loss for one in collect(again, 1)] == [4.0]
    finally:
        again.close()


def test_a_partition_that_is_not_there_is_one_message(tmp_path: Path) -> None:
    section = WorkerConfig(name="slurm", processes=1, slurm={"partition": "gpu"})
    with pytest.raises(InputError, match=r"worker.slurm: SLURM does not take the jobs: .*invalid partition"):
        SlurmWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 1)], tmp_path)


def test_the_record_is_that_of_one_machine(tiny_model_folder: Path, tmp_path: Path) -> None:
    alone = study(tmp_path / "alone", tiny_model_folder, "{name: local, processes: 2, threads: 1")
    assert run(alone).returncode == 0
    path = study(tmp_path / "spread", tiny_model_folder, "{name: slurm, processes: 2, slurm: {time: 30}")
    ended = run_apart(path)
    assert ended.returncode == 0, ended.stderr
    assert record_of(path) == record_of(alone)
    assert list((path.parent / "study" / "logs").glob("*_[01].0-*")), "no process of a job logged anything"
