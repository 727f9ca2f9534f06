"""The paper's two rounds (`examples/two_rounds`), warm-started in both ways, killed and continued."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from meshtune.record import Record
from meshtune.recorded import RecordedTrial
from tests.kill import meshtune, record_of, run

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_rounds"


@pytest.fixture(scope="module")
def round1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the two rounds, the first of which is done."""
    folder = tmp_path_factory.mktemp("two") / "rounds"
    shutil.copytree(EXAMPLE, folder)
    ended = run(folder / "round1.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    trials = json.loads(ended.stdout)["all"]
    assert (len(trials), max(trial["hyperparameters"]["rank"] for trial in trials)) == (50, 128)
    return folder


@pytest.mark.parametrize("values", ["as_is", pytest.param("shifted", marks=pytest.mark.slow)])
def test_two_rounds(round1: Path, tmp_path: Path, values: str) -> None:
    folder = tmp_path / "rounds"
    shutil.copytree(round1, folder)
    second, options = folder / "round2.yaml", ("--set", f"warm_start.values={values}")
    ended = run(second, "--json", *options)
    assert ended.returncode == 0, ended.stderr
    status = json.loads(ended.stdout)
    assert (len(status["all"]), status["trials"]["complete"]) == (100, 100)
    assert {"complete": 50, "failed": 0, "outside": 0, "values": values}.items() <= status["warm_start"].items()
    old, new = (record_of(folder / name) for name in ("round1", "round2"))
    assert status["best"]["loss"] == min(trial["loss"] for trial in new)  # and not one of the first round
    assert max(trial["hyperparameters"]["rank"] for trial in new) > 128
    best = min(old, key=lambda trial: trial["loss"])["hyperparameters"]
    known = [trial["hyperparameters"] for trial in old[1:]]  # the baseline is evaluated in any case
    again = [trial["hyperparameters"] for trial in new if trial["hyperparameters"] in known]
    assert (best in again, len(again)) == ((False, 0) if values == "as_is" else (True, 4))

    killed = tmp_path / "killed"
    arguments = meshtune("tune", second, "--folder", killed, *options)
    coordinator = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_told(killed, 10)
    os.kill(coordinator.pid, signal.SIGKILL)
    coordinator.wait(timeout=60)
    total = len(record_of(killed)) + 6
    assert total < 100
    shutil.rmtree(folder / "round1")  # what it knows is its own by now
    ended = run(second, "--folder", killed, "--trials", total, *options)
    assert ended.returncode == 0, ended.stderr
    assert record_of(killed) == new[:total]


def wait_for_told(folder: Path, count: int) -> None:
    """Until so many trials of a running study have ended."""
    deadline = time.monotonic() + 60
    while not (folder / "study.yaml").exists() or len(told(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def told(folder: Path) -> list[RecordedTrial]:
    """The trials that have ended, as the record of a running study has them."""
    return Record(f"sqlite:///{folder / 'study.db'}", folder.name).told
