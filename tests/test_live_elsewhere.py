"""What people ask of single trials, where these run on Ray or as SLURM's jobs, and where PostgreSQL has the record."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from meshtune.plan.locate import existing
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.study import requests
from meshtune.study.requests import ask_of_trial, enqueue
from meshtune.testing.processes import gone
from meshtune.trial import Ending
from tests.kill import meshtune
from tests.postgresql import postgresql
from tests.slurm_cluster import SlurmCluster, missing

Coordinator: TypeAlias = "subprocess.Popen[bytes]"
pytestmark = pytest.mark.slow
PROGRAM = """
import json, os, sys, time
trial, x = sys.argv[1], float(sys.argv[2])
with open(f"pid-{trial}", "w") as file:
    file.write(str(os.getpid()))
time.sleep(600 if x > 1e-3 else 0)
print(json.dumps({"loss": x}))
"""


def wait_until(true: Callable[[], bool], coordinator: Coordinator, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        assert not coordinator.poll()
        time.sleep(0.1)


@pytest.fixture(params=["ray", "slurm", "postgresql"])
def running(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Coordinator]]:
    """A study of programs that wait for ten minutes, but for the baseline, and its coordinator."""
    monkeypatch.setattr(requests, "WAIT_SECONDS", 60.0)
    with contextlib.ExitStack() as stack:
        lines = "worker: {name: local, processes: 2}"
        if request.param == "ray":
            from ray.cluster_utils import Cluster

            monkeypatch.setenv("RAY_worker_niceness", "0")  # else they stand still beside other work of this machine
            monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
            nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
            stack.callback(nodes.shutdown)
            lines = f"worker: {{name: ray, address: '{nodes.address}', processes: 2, threads: 1}}"
        elif request.param == "slurm":
            if missing():
                pytest.skip(f"not installed: {', '.join(missing())}")
            jobs = SlurmCluster(tmp_path / "slurm")
            stack.callback(jobs.close)
            for name in ("PATH", "SLURM_CONF"):
                monkeypatch.setenv(name, jobs.environment[name])
            lines = "worker: {name: slurm, processes: 2, threads: 1, slurm: {time: 30}}"
        else:
            lines += f"\nstorage: {stack.enter_context(postgresql())}"
        folder = tmp_path / "study"
        folder.mkdir()
        (folder / "waits.py").write_text(PROGRAM)
        path = folder / "study.yaml"
        path.write_text(
            f"objective: {{command: [{sys.executable}, waits.py, '{{trial}}', '{{x}}']}}\n"
            "space: {x: {low: 0, high: 10}}\nbaseline: {x: 0}\nsampler: {name: random, block_size: 2}\n"
            f"budget: {{trials: 6}}\n{lines}\n"
        )
        with (tmp_path / "said").open("w") as said:
            coordinator = subprocess.Popen(meshtune("tune", path), stdout=said, stderr=said)
        try:
            yield path, coordinator
        finally:
            coordinator.terminate()
            coordinator.wait(timeout=120)


def test_a_trial_is_stopped_and_a_point_enqueued(running: tuple[Path, Coordinator]) -> None:
    path, coordinator = running

    def trial(number: int) -> RecordedTrial:
        study = existing(path)
        return Record(study.url, study.name).trials[number]

    def stop(number: int) -> None:
        """Once its program runs, which then is gone."""
        file = path.parent / f"pid-{number}"
        wait_until(lambda: file.exists() and bool(file.read_text()), coordinator)
        reply = ask_of_trial(path, number, "stop")
        assert reply.words == f"trial {number} stops at its next step, unless it ends before"
        wait_until(lambda: trial(number).final is not None or coordinator.poll() == 0, coordinator)
        assert gone([int(file.read_text())])

    stop(1)
    answer = enqueue(path, {"x": 1e-6}).answer
    assert answer is not None
    assert answer.trial is not None
    for number in range(2, 6):
        if number != answer.trial:
            stop(number)
    assert coordinator.wait(timeout=120) == 0
    endings = [final.ending for number in range(6) if (final := trial(number).final)]
    assert endings == [Ending.COMPLETE if n in (0, answer.trial) else Ending.STOPPED_EARLY for n in range(6)]
    assert trial(answer.trial).origin == "enqueued"
