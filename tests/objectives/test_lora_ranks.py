"""A trial over two devices, which are processes on a CPU, in a worker: its losses, and a process of it that dies."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import ModelConfig, TrainerConfig, TrainingConfig
from meshtune.data import answers
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.testing.processes import alive, descendants, gone
from meshtune.testing.workers import collect
from meshtune.trial import DataRef, Ending, Outcome, Progress, Request
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec

MakeSpec = Callable[..., LoraSpec]
POINTS = [{"rank": 4, "alpha": 8, "dropout": 0.1, "learning_rate": rate} for rate in (1e-2, 1e-3)]
PACK = [Request(number, point, seed=0) for number, point in enumerate(POINTS)]


pytestmark = pytest.mark.slow


@pytest.fixture
def make(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> MakeSpec:
    """Makes specs of the tiny model."""

    def spec(folder: Path = tmp_path, **training: Any) -> LoraSpec:
        config = TrainingConfig(**{"batch_size": 8, "precision": "float32", **training})
        model = ModelConfig(name=str(tiny_model_folder))
        return LoraSpec(model=model, training=config, data=tiny_data, at="best", folder=str(folder))

    return spec


def started(worker: LocalWorker) -> set[int]:
    """The processes that the worker's process has started, once it trains."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for event in worker.events(0.5):
            assert isinstance(event, Progress), event
            if event.step:
                return descendants(worker.pids[0])
    raise AssertionError("it did not get there")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed by /proc")
@pytest.mark.parametrize("trainer", ["packed", "transformers"])
def test_a_process_of_a_trial_that_dies_costs_an_attempt(make: MakeSpec, tmp_path: Path, trainer: str) -> None:
    """The worker says which and how, and its next attempt has the losses of one device; no process is left."""
    (tmp_path / "alone").mkdir()
    training = {"epochs": 6, "checkpoint_minutes": None, "trainer": TrainerConfig(name=trainer)}
    alone = LoraObjective(make(tmp_path / "alone", **training), "cpu", 1)
    wanted = {event.trial: event for event in alone.evaluate(PACK) if isinstance(event, Outcome)}
    spec = ObjectiveSpec("lora", make(**training).model_dump(mode="json"))
    worker = LocalWorker(spec, [ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1, devices=2)], tmp_path)
    try:
        worker.submit(PACK)
        (other,) = started(worker)
        os.kill(other, signal.SIGKILL)
        for crashed in collect(worker, 2, seconds=120):
            assert crashed.ending is Ending.CRASHED
            assert crashed.retry
            assert (
                "a device of the trial was lost: rank 1 of 2, a process of the trial, was killed by" in crashed.message
            )
        worker.submit([Request(one.trial, one.hyperparameters, seed=0, attempt=2) for one in PACK])
        ended = collect(worker, 2, seconds=240)
        others = descendants(worker.pids[0])
        assert len(others) == 1
    finally:
        worker.close()
    assert gone(others)
    for outcome in ended:
        one = wanted[outcome.trial]
        assert (outcome.ending, outcome.attempt, outcome.tokens) == (Ending.COMPLETE, 2, one.tokens)
        assert outcome.losses == pytest.approx(one.losses, abs=1e-4)
        assert outcome.training_losses == pytest.approx(one.training_losses, abs=1e-4)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed by /proc")
def test_they_end_with_the_process_that_holds_them(make: MakeSpec, tmp_path: Path) -> None:
    """However that ends."""
    spec = ObjectiveSpec("lora", make(epochs=50).model_dump(mode="json"))
    worker = LocalWorker(spec, [ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1, devices=3)], tmp_path)
    try:
        worker.submit(PACK)
        others = started(worker)
        assert len(others) == 2
        assert all(map(alive, others))
        os.kill(worker.pids[0], signal.SIGKILL)
        assert gone(others)
    finally:
        worker.close()


@pytest.mark.parametrize("trainer", ["packed", "transformers"])
def test_a_base_that_is_cut_over_devices(make: MakeSpec, tmp_path: Path, trainer: str) -> None:
    """The untuned model, a pack, test rows by its adapter, answers, and another pack, all in one process with another:
    as on one device.
    """
    (tmp_path / "alone").mkdir()
    training = {"epochs": 2, "trainer": TrainerConfig(name=trainer)}
    folders = tmp_path / "alone", tmp_path
    alone, cut = (make(folder, **training).model_copy(update={"answers": 2}) for folder in folders)
    later = [Request(2, {**POINTS[0], "rank": 8}, seed=0)]
    measured = [Request(-2, {}, 0, measure=what, adapter="adapters/0") for what in ("test", "answers")]
    given = [[Request(-1, {}, 0, measure="validation")], PACK, measured[:1], measured[1:], later]
    one = LoraObjective(alone, "cpu", 1)
    wanted = [event for requests in given for event in one.evaluate(requests) if isinstance(event, Outcome)]
    spec = ObjectiveSpec("lora", cut.model_dump(mode="json"))
    place = ProcessSpec("cpu", {"OMP_NUM_THREADS": "1"}, 1, devices=2, sharded=True)
    worker = LocalWorker(spec, [place], tmp_path)
    try:
        found = []
        for requests in given:
            worker.submit(requests)
            found += sorted(collect(worker, len(requests), seconds=400), key=lambda outcome: outcome.trial)
    finally:
        worker.close()
    for outcome, other in zip(found, wanted, strict=True):
        assert outcome.ending is Ending.COMPLETE, outcome.message
        assert (outcome.trial, outcome.tokens) == (other.trial, other.tokens)
        assert outcome.loss == pytest.approx(other.loss, abs=1e-4)
        assert outcome.losses == pytest.approx(other.losses, abs=1e-4)
    files = [folder / answers.file_of("adapters/0") for folder in (tmp_path, tmp_path / "alone")]
    assert answers.read(files[0]) == answers.read(files[1])
