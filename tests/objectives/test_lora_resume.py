"""Trials that go on inside: suspended, killed, crashed; in real processes, and what is left of their checkpoints."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.objectives import checkpoints
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.testing.workers import collect
from meshtune.training.saved_state import FILE
from meshtune.trial import DataRef, Ending, Outcome, Progress, Request
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec

POINT = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "learning_rate": 0.001}
EPOCHS = 15
LONG = Request(0, {**POINT, "epochs": EPOCHS, "batch_size": 2}, seed=0, threads=1)
MakeSpec = Callable[..., LoraSpec]


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> MakeSpec:
    """Makes specs of the tiny model that save themselves many times a second."""

    def spec(folder: Path = tmp_path, **training: Any) -> LoraSpec:
        usual = {"batch_size": 8, "precision": "float32", "checkpoint_minutes": 1e-3}
        config = TrainingConfig(**{**usual, **training})
        model = ModelConfig(name=str(tiny_model_folder))
        return LoraSpec(model=model, training=config, data=tiny_data, at="best", folder=str(folder))

    return spec


def outcome_of(objective: LoraObjective, request: Request) -> Outcome:
    """The last thing that comes."""
    *_, outcome = objective.evaluate([request])
    assert isinstance(outcome, Outcome)
    return outcome


def files(folder: Path) -> dict[str, bytes]:
    """An adapter, byte by byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def until(worker: LocalWorker, wanted: Callable[[Progress], bool]) -> Progress:
    """The first such progress."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for event in worker.events(0.5):
            assert isinstance(event, Progress), event
            if wanted(event):
                return event
    raise AssertionError("it did not get there")


@pytest.mark.slow
def test_suspended_then_killed_equals_neither(make: MakeSpec, tmp_path: Path) -> None:
    """In three processes, one after the other: the losses, tokens and adapter of one that ran alone."""
    (tmp_path / "whole").mkdir()
    whole = outcome_of(LoraObjective(make(tmp_path / "whole"), "cpu", 1), LONG)
    assert not (tmp_path / "whole" / checkpoints.FOLDER / "0").exists()
    spec = ObjectiveSpec("lora", make().model_dump(mode="json"))
    places = [ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1)]
    first = LocalWorker(spec, places, tmp_path)
    try:
        first.submit([LONG])
        suspended = until(first, lambda progress: progress.epoch > 1)
        first.suspend(60)
        assert not [event for event in first.events(0.1) if isinstance(event, Outcome)]
    finally:
        first.close()
    assert (tmp_path / checkpoints.FOLDER / "0" / FILE).exists()
    second = LocalWorker(spec, places, tmp_path)
    try:
        second.submit([LONG])
        until(second, lambda progress: progress.epoch > suspended.epoch + 1)
        os.kill(second.pids[0], signal.SIGKILL)
        (crashed,) = collect(second, 1)
        assert crashed.ending is Ending.CRASHED
        second.submit([Request(0, LONG.hyperparameters, seed=0, threads=1, attempt=2)])
        (ended,) = collect(second, 1, seconds=120)
        second.suspend(30)  # with nothing to save it ends once it has cleared up
    finally:
        second.close()
    assert (ended.ending, ended.attempt) == (Ending.COMPLETE, 2)
    assert len(ended.losses) == EPOCHS
    assert (ended.loss, ended.losses, ended.training_losses) == (whole.loss, whole.losses, whole.training_losses)
    assert ended.tokens == whole.tokens
    assert files(tmp_path / "adapters" / "0") == files(tmp_path / "whole" / "adapters" / "0")
    assert not (tmp_path / checkpoints.FOLDER / "0").exists()
    assert "Traceback" not in (tmp_path / "logs" / "worker-0.log").read_text()


def suspended(spec: LoraSpec, request: Request) -> Path:
    """Suspend a trial once it has saved itself; its checkpoint's folder."""
    folder = Path(spec.folder) / checkpoints.FOLDER / str(request.trial)
    objective = LoraObjective(spec, "cpu", 1)
    for event in objective.evaluate([request]):
        assert isinstance(event, Progress)
        if (folder / FILE).exists():
            objective.suspend()
    assert (folder / FILE).exists()
    return folder


def test_the_timeout_counts_all_seconds(make: MakeSpec) -> None:
    """Also those before the checkpoint; a trial that has timed out leaves none, and takes away no other's folder."""
    folder = suspended(make(), LONG)
    late = outcome_of(
        LoraObjective(make(), "cpu", 1), Request(0, LONG.hyperparameters, seed=0, threads=1, timeout=1e-3)
    )
    assert late.ending is Ending.TIMED_OUT
    assert list(folder.parent.iterdir()) == []


def test_a_crash_keeps_the_checkpoint_for_one_retry(make: MakeSpec) -> None:
    """Where it crashes from there again, the attempt after that starts over; an interruption is no crash."""
    folder = suspended(make(), LONG)
    for attempt, goes_on in [(1, True), (1, True), (2, True), (3, False)]:
        checkpoints.before_attempt(folder, attempt)
        assert folder.exists() == goes_on
    folder = suspended(make(), LONG)
    checkpoints.before_attempt(folder, 2)
    os.utime(folder / FILE)  # it got further before it crashed again
    checkpoints.before_attempt(folder, 3)
    assert folder.exists()


def test_a_measurement_is_suspended_too(make: MakeSpec) -> None:
    """It has nothing to save, and no outcome."""
    objective = LoraObjective(make(), "cpu", 1)
    events = objective.evaluate([Request(-1, {}, 0, measure="validation")])
    assert [next(events), isinstance(next(events), Progress)] == [Progress(-1, 1), True]  # begun, and at work
    objective.suspend()
    assert not [event for event in events if isinstance(event, Outcome)]
