"""A trainer of one's own: a file beside the study, named by `training.trainer: {import: ..}`."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.errors import InputError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.testing.trainers import TrainerContract
from meshtune.testing.workers import collect
from meshtune.training.chosen_trainer import trainer_of
from meshtune.training.loss import Row
from meshtune.training.steps import Train
from meshtune.trial import DataRef, Ending, Outcome, Progress, Request
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec
from tests.training.conftest import make_rows

POINT = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "learning_rate": 0.01}
PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)  # AdamW, one row a step
PROGRAM = (
    EXAMPLE
    + '''
import gc


def measured(base, train_rows, validation_rows, recipe, *, at, rungs=None):
    for rung in rungs.tokens:
        yield Step(1, 80, 0.1, rung, rung_loss=5.0 + rung / 100, rung=rung)
    yield from train(base, train_rows, validation_rows, recipe, at=at)


def silent(base, train_rows, validation_rows, recipe, *, at):
    return []


def not_finite(base, train_rows, validation_rows, recipe, *, at):
    return [Step(1, 1, 1.0, 5, float("nan"))]


def broken_gpu(base, train_rows, validation_rows, recipe, *, at):
    """As in an illegal memory access: from the first on, everything fails for as long as the process lives."""
    if recipe.rank == 8 or broken:
        broken.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\\nCUDA kernel errors might come later")
    assert gc.get_freeze_count() > 100_000, "each collection would look through all modules"
    yield from train(base, train_rows, validation_rows, recipe, at=at)


broken = []
nothing = 5
'''
)


@pytest.fixture(scope="module", autouse=True)
def _written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The file, in a folder that Python finds."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_trainer.py").write_text(PROGRAM)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def config(name: str) -> TrainingConfig:
    """A training section that imports `own_trainer:<name>`."""
    values = {"trainer": {"import": f"own_trainer:{name}"}, "epochs": 2, "batch_size": 8, "precision": "float32"}
    return TrainingConfig.model_validate(values)


class TestOwn(TrainerContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_model_folder: Path) -> None:
        self._folder = tiny_model_folder

    def trainer(self) -> Train:
        return trainer_of(config("train"))

    def model_folder(self) -> Path:
        return self._folder

    def rows(self) -> tuple[list[Row], list[Row]]:
        return make_rows(12, 1), make_rows(5, 2)


@pytest.mark.slow
def test_a_process_whose_gpu_failed_is_replaced(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> None:
    """What runs in it has crashed, with the reason; what comes next runs in another process, and goes well."""
    model = ModelConfig(name=str(tiny_model_folder))
    spec = LoraSpec(model=model, training=config("broken_gpu"), data=tiny_data, at="best", folder=str(tmp_path))
    place = ProcessSpec("cpu", {"PYTHONPATH": os.pathsep.join(sys.path)}, 1)
    worker = LocalWorker(ObjectiveSpec("lora", spec.model_dump(mode="json")), [place], tmp_path)
    try:
        before = worker.pids
        requests = [Request(n, {**POINT, "rank": 8}, seed=0) for n in range(2)]
        worker.submit(requests)
        failed = collect(worker, 2)
        after = worker.pids
        worker.submit([Request(2, POINT, seed=0)])
        (good,) = collect(worker, 1)
    finally:
        worker.close()
    assert [outcome.ending for outcome in failed] == [Ending.CRASHED] * 2
    assert all(outcome.retry and "illegal memory access" in outcome.message for outcome in failed)
    assert before != after
    assert good.ending is Ending.COMPLETE


@pytest.fixture
def objective(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> Any:
    """Makes the objective that trains with one of the functions."""

    def make(name: str) -> LoraObjective:
        model = ModelConfig(name=str(tiny_model_folder))
        spec = LoraSpec(model=model, training=config(name), data=tiny_data, at="best", folder=str(tmp_path))
        return LoraObjective(LoraSpec.model_validate_json(spec.model_dump_json(by_alias=True)), "cpu", 1)

    return make


def test_a_trial(objective: Any, tmp_path: Path) -> None:
    """Progress, losses, tokens and the adapter are those of our trainer's trials."""
    *progress, outcome = objective("train").evaluate([Request(0, POINT, seed=0)])
    assert all(isinstance(event, Progress) for event in progress)
    assert isinstance(outcome, Outcome)
    assert outcome.ending is Ending.COMPLETE, outcome.message
    assert outcome.loss == min(outcome.losses)
    assert len(outcome.training_losses) == 3
    assert (tmp_path / "adapters" / "0" / "adapter_model.safetensors").is_file()


def test_it_can_be_suspended_and_starts_over(objective: Any) -> None:
    """It takes no checkpoint, so there is nothing to go on from; and it ends within a step."""
    one = objective("train")
    events = one.evaluate([Request(0, POINT, seed=0)])
    next(events)
    one.suspend()
    assert not [event for event in events if isinstance(event, Outcome)]


def test_it_is_stopped_early_where_it_measures_rungs(objective: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """One that takes no checkpoint keeps nothing, and is promoted from the beginning; one without rungs just ends."""
    request = Request(0, POINT, seed=0, thresholds=((50, 6.0), (100, 5.5), (200, 1.0)))
    *_, stopped = objective("measured").evaluate([request])
    assert (stopped.ending, stopped.loss, stopped.rungs) == (Ending.STOPPED_EARLY, 6.0, ((50, 5.5), (100, 6.0)))
    assert (stopped.tokens, stopped.adapter) == (100, None)
    *_, promoted = objective("measured").evaluate([replace(request, promote=True)])
    assert (promoted.ending, len(promoted.rungs)) == (Ending.COMPLETE, 3)
    assert "it is trained from the beginning" in capfd.readouterr().err
    *_, plain = objective("train").evaluate([request])
    assert (plain.ending, plain.loss, plain.rungs) == (Ending.COMPLETE, promoted.loss, ())


@pytest.mark.parametrize(
    ("name", "ending", "message"),
    [
        ("silent", Ending.CRASHED, "without a result"),
        ("not_finite", Ending.DIVERGED, "a loss of step 1 was nan"),
        ("trian", Ending.CRASHED, "Did you mean `train`?"),
        ("nothing", Ending.CRASHED, "`own_trainer:nothing` is no function"),
    ],
)
def test_what_goes_wrong_has_words(objective: Any, name: str, ending: Ending, message: str) -> None:
    """Each ends its trial, and the objective lives on."""
    *_, outcome = objective(name).evaluate([Request(0, POINT, seed=0)])
    assert isinstance(outcome, Outcome)
    assert outcome.ending is ending
    assert message in outcome.message


def test_a_module_that_is_not_there() -> None:
    """Says which key names it."""
    values = {"trainer": {"import": "no_such_module:train"}}
    with pytest.raises(InputError, match=r"training[.]trainer[.]import: there is no module `no_such_module`"):
        trainer_of(TrainingConfig.model_validate(values))
