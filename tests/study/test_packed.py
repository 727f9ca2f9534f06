"""Studies whose trials are trained in packs: beside the reference trainer, and where packs cannot be had."""

from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.plan.locate import locate
from meshtune.plan.plan import build
from tests.kill import run
from tests.test_kill_lora import lora_study, status_of

QUICK = ("training.epochs=1", "sampler.name=random", "generation.rows=0", "worker.processes=1", "data.test=0")


def trials(path: Path, count: int, *overrides: str) -> tuple[list[dict[str, Any]], str]:
    """The trials of a short study, and what it said."""
    ended = run(path, *(word for pair in (*QUICK, f"budget.trials={count}", *overrides) for word in ("--set", pair)))
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = status_of(path)["all"]  # type: ignore[assignment]
    return found, ended.stderr


@pytest.mark.slow
def test_both_trainers_find_the_same_losses(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Trial by trial, within 1e-3, for the same points; not where a rate is so high that training is chaos."""
    calm = "space.learning_rate.high=0.01"
    packed, _ = trials(lora_study(tmp_path / "packed", tiny_model_folder), 6, calm)
    reference = (calm, "training.trainer=transformers", "worker.pack=auto")
    alone, _ = trials(lora_study(tmp_path / "alone", tiny_model_folder), 6, *reference)
    assert [trial["pack"] for trial in packed] == [0, 0, 0, 3, 3, 3]
    assert [trial["pack"] for trial in alone] == list(range(6))
    for one, other in zip(packed, alone, strict=True):
        assert one["hyperparameters"] == other["hyperparameters"]
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-3)
        assert (one["ending"], one["tokens"]) == (other["ending"], other["tokens"])


@pytest.mark.slow
def test_devices_of_a_trial_change_no_loss(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Nor points, nor packs; the key may change while a study runs. Not where a rate is so high that all is chaos."""
    calm = "space.learning_rate.high=0.01"
    one, _ = trials(lora_study(tmp_path / "one", tiny_model_folder), 6, calm)
    shared = lora_study(tmp_path / "two", tiny_model_folder)
    trials(shared, 3, calm, "worker.devices_per_trial=2")
    two, _ = trials(shared, 6, calm, "worker.devices_per_trial=3", "worker.shard_model=true")
    assert [trial["pack"] for trial in two] == [0, 0, 0, 3, 3, 3]
    for trial, other in zip(one, two, strict=True):
        assert trial["hyperparameters"] == other["hyperparameters"]
        assert trial["losses"] == pytest.approx(other["losses"], abs=1e-4)
        assert (trial["ending"], trial["tokens"], trial["pack"]) == (other["ending"], other["tokens"], other["pack"])


@pytest.mark.slow
def test_what_cannot_be_packed_is_trained_alone_and_the_user_reads_why(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Known before the first trial is proposed."""
    found, said = trials(lora_study(tmp_path / "dora", tiny_model_folder), 2, "training.use_dora=true")
    assert (
        said.count("each trial is trained alone, by the trainer `transformers`: it cannot be packed, since DoRA") == 1
    )
    assert [(trial["pack"], trial["ending"]) for trial in found] == [(0, "complete"), (1, "complete")]


@pytest.mark.parametrize("trainer", ["training.trainer=transformers", "training.trainer={import: json:loads}"])
def test_packs_that_there_cannot_be_are_a_fault(tiny_model_folder: Path, tmp_path: Path, trainer: str) -> None:
    """Not ignored in silence."""
    study = locate(lora_study(tmp_path / "faulty", tiny_model_folder), overrides=(trainer,))
    with pytest.raises(InputError, match=r"worker.pack: 3 trials together .* `training.trainer: packed`"):
        build(study)
