"""Trials that join a running pack, in a study of a real (tiny, random) model: on this machine, and through a spool."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import MeshtuneError
from meshtune.record.decisions import Joined
from meshtune.record.log import Record
from meshtune.testing.processes import gone
from meshtune.trial import Ending
from tests.kill import kill_at_random, run, run_apart
from tests.test_kill_lora import lora_study

pytestmark = pytest.mark.slow

STOPPING = "early_stopping: {rule: asha, rungs: [0.2, 0.4], rows: 10, keep: 0.5, promote: 0}\n"


def study(folder: Path, model: Path, worker: str, further: str = "", sampler: str = "") -> Path:
    """Points that depend on no loss, in blocks of 12."""
    path = lora_study(folder, model)
    text = path.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 2").replace("trials: 20", "trials: 24")
    text = text.replace("mads, block_size: 6", f"random, block_size: 12{sampler}").replace("high: 1e-1", "high: 1e-2")
    text = text.replace("metrics: {exact: {file: metrics.py}}\n", "").replace("rows: 4", "rows: 0")
    path.write_text(text[: text.index("worker: ")] + f"worker: {worker}\n" + further, encoding="utf-8")
    return path


def record_at(path: Path) -> Record:
    return Record(f"sqlite:///{path.parent / 'study' / 'study.db'}", "study")


def studied(path: Path) -> Record:
    ended = run(path)
    assert ended.returncode == 0, ended.stderr
    return record_at(path)


@pytest.fixture(scope="module")
def alone(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The same points, each trained by itself and to its end."""
    folder = tmp_path_factory.mktemp("joining") / "alone"
    return studied(study(folder, tiny_model_folder, "{name: local, processes: 2, threads: 1, pack: 1}"))


@pytest.mark.parametrize(
    ("worker", "sampler"),
    [
        ("name: local, threads: 1, processes: 2", ""),
        ("name: slurm, cluster: local, processes: 2", ""),
        ("name: local, threads: 1, processes: 1", ", asynchronous: true"),
    ],
)
def test_what_joins_has_the_losses_of_the_trial_alone(
    alone: Record, tiny_model_folder: Path, tmp_path: Path, worker: str, sampler: str
) -> None:
    path = study(tmp_path / "joining", tiny_model_folder, f"{{{worker}, pack: 3}}", STOPPING, sampler)
    assert_as_alone(studied(path), alone)


def test_killed_while_trials_join(alone: Record, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Each trial ends once, with the losses that it has alone; who had joined what stays so."""
    worker = "{name: local, threads: 1, processes: 1, pack: 3, attempts: 10}"
    path = study(tmp_path / "killed", tiny_model_folder, worker, STOPPING, ", asynchronous: true")

    marks = iter((1, 3, 3, 5))  # so many have joined when something is killed

    def wait(chance: random.Random) -> float:
        mark, joined = next(marks), 0
        while joined < mark:
            time.sleep(0.2)
            with contextlib.suppress(MeshtuneError):  # it is not there yet
                joined = len(record_at(path).joined)
        return chance.uniform(0.0, 0.5)

    before = list[Joined]()
    for victim, family in kill_at_random(path, 3, seed=5, wait=wait, victims=("coordinator", "worker")):
        assert gone(family), f"processes outlived the kill of the {victim}"
        joined = record_at(path).joined
        assert joined[: len(before)] == before
        before = joined
    ended = run_apart(path)
    assert ended.returncode == 0, ended.stderr
    record = record_at(path)
    assert record.joined[: len(before)] == before
    assert_as_alone(record, alone)


def assert_as_alone(record: Record, alone: Record) -> None:
    assert record.joined
    assert not record.pending
    assert [trial.params for trial in record.trials] == [trial.params for trial in alone.trials]
    complete = dict[bool, int]()
    for trial, other in zip(record.trials, alone.trials, strict=True):
        found: Any = trial.outcome
        wanted: Any = other.outcome
        if found.ending is Ending.COMPLETE:
            complete[trial.joins is not None] = complete.get(trial.joins is not None, 0) + 1
            assert found.losses == pytest.approx(wanted.losses, abs=1e-5)
            assert found.tokens == wanted.tokens
        else:
            assert found.ending is Ending.STOPPED_EARLY
            assert found.tokens < wanted.tokens
    assert complete[True]
    assert complete[False]
