"""A study asks the cluster's autoscaler for what it can use, and the request does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune.config.sections import WorkerConfig
from meshtune.testing.processes import descendants
from meshtune.testing.workers import collect
from meshtune.trial import Request
from meshtune.workers.planner import ProcessSpec
from tests.ray_nodes import AutoscalingNodes, strike, until
from tests.workers.test_local import spec

pytest.importorskip("ray")  # the extra `ray`; CI has it
from meshtune.workers.ray import RayWorker, survey

pytestmark = pytest.mark.slow

HOLD = """
import sys, time
from pathlib import Path
from meshtune.config.sections import WorkerConfig
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.ray import RayWorker
from tests.workers.test_local import spec
folder = Path(sys.argv[2])
section = WorkerConfig(name="ray", address=sys.argv[1], processes=2, autoscale=True)
worker = RayWorker(section, spec(folder), [ProcessSpec("cpu", {}, 1)] * 2, folder)
print("there", flush=True)
while True:
    worker.events(1.0)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[AutoscalingNodes]:
    cluster = AutoscalingNodes(tmp_path, 3)
    yield cluster
    cluster.kill()


def test_nodes_come_when_they_are_asked_for_and_the_request_ends_with_the_study(
    cluster: AutoscalingNodes, tmp_path: Path
) -> None:
    """Also where there is none yet that could be surveyed."""
    section = WorkerConfig(name="ray", address=cluster.address, processes=2, autoscale=True)
    found = survey(section)
    assert found is not None
    assert 1 in found.cpus
    worker = RayWorker(section, spec(tmp_path), [ProcessSpec("cpu", {}, 1)] * 2, tmp_path)
    try:
        assert worker.free() == 2
        assert cluster.asked() == [{"CPU": 1}] * 2
        for trial in range(2):
            worker.submit([Request(trial, {"x": 3.0, "do": "answer"}, seed=0)])
        assert [one.loss for one in collect(worker, 2, seconds=180)] == [9.0, 9.0]
        assert cluster.nodes() == 2
    finally:
        worker.close()
    assert cluster.asked() == []
    until(lambda: cluster.nodes() == 0, 180)


@pytest.mark.parametrize("victims", ["coordinator", "coordinator and driver"])
def test_the_request_of_a_study_that_was_killed_ends(cluster: AutoscalingNodes, tmp_path: Path, victims: str) -> None:
    command = [sys.executable, "-c", HOLD, cluster.address, str(tmp_path)]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert study.stdout is not None
        assert study.stdout.readline() == "there\n"
        assert cluster.asked() == [{"CPU": 1}] * 2
        family = descendants(study.pid) if victims.endswith("driver") else set[int]()
        begun = time.monotonic()
        strike([*family, study.pid], signal.SIGKILL)
        until(lambda: cluster.asked() == [], 120)
        print(f"{victims}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
        until(lambda: cluster.nodes() == 0, 180)
    finally:
        if study.poll() is None:
            os.kill(study.pid, signal.SIGKILL)
        study.wait()
        assert study.stdout is not None
        study.stdout.close()
