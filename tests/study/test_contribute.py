"""A study's trials as a line of the table of runs: what can be compared, and nothing that is the user's own."""

from pathlib import Path

import pytest

from meshtune.config import presets
from meshtune.errors import InputError
from meshtune.plan.locate import locate
from meshtune.priors import advise, runs
from meshtune.record.log import Record
from meshtune.study.contribute import contribute
from meshtune.study.prepare import prepare
from meshtune.trial import Ending, Outcome
from tests.test_kill_lora import lora_study

RATES = (1e-3, 1e-2, 3e-3, 1e-3)


@pytest.fixture
def study(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """Prepared, with three complete trials of the same epochs and one of others, and one that diverged."""
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    text = path.read_text().replace("learning_rate: {low", "epochs: [2, 3], learning_rate: {low", 1)
    path.write_text(text.replace("baseline: {", "baseline: {epochs: 3, "))
    prepare(path)
    found = locate(path)
    record = Record(found.url, found.name, presets.build(found.config.space, lora=True), fixed={})
    for number, rate in enumerate((*RATES, 0.1)):
        epochs = 2 if number == 3 else 3
        point = {"rank": 4, "alpha": 32, "dropout": 0.0, "learning_rate": rate, "epochs": epochs}
        trial = record.enqueue(point, origin="search" if number else "baseline", seed=0)
        ended = Ending.COMPLETE if number < 4 else Ending.DIVERGED
        record.tell(Outcome(trial.number, 0, ended, 2.0 + number if number < 4 else None), elapsed=1.0)
    return path


def test_it_can_be_read_as_a_prior_and_names_nothing_of_the_user(study: Path, tmp_path: Path) -> None:
    task, left = contribute(study, data="chats")
    assert left == 1
    assert task.facts == runs.Facts("llama", 32, 40, steps=30, batch_size=4)
    assert [run.learning_rate for run in task.runs] == pytest.approx(RATES[:3])
    assert [run.loss for run in task.runs] == [2.0, 3.0, 4.0]
    line = task.line()
    assert str(tmp_path) not in line
    assert "rows.jsonl" not in line
    (tmp_path / "ours.jsonl").write_text(line)
    assert runs.read(tmp_path / "ours.jsonl") == [task]
    assert advise(hidden_size=32, family="other", priors=[tmp_path / "ours.jsonl"]).portfolio


def test_a_step_has_at_most_all_rows(study: Path) -> None:
    study.write_text(study.read_text().replace("batch_size: 4", "batch_size: 64"))
    task, _ = contribute(study)
    assert (task.facts.batch_size, task.facts.steps) == (40, 3)


def test_a_model_whose_size_is_not_known_is_one_message(study: Path) -> None:
    model = locate(study).config.model
    assert model is not None
    text = study.read_text()
    for name, why in (("gone", "no folder `gone`"), ("gone.gguf", "gone.gguf` is no folder")):
        study.write_text(text.replace(model.name, name))
        with pytest.raises(
            InputError, match=f"{why}.*; a line has the model's hidden size.* to where it was"
        ) as raised:
            contribute(study)
        assert len(raised.value.faults) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 3, batch_size", "use_rslora: true, epochs: 3, batch_size", "use_rslora"),
        ("epochs: 3, batch_size", "target_modules: [q_proj], epochs: 3, batch_size", "target_modules"),
    ],
)
def test_what_cannot_be_compared_is_refused(study: Path, old: str, new: str, said: str) -> None:
    study.write_text(study.read_text().replace(old, new))
    with pytest.raises(InputError, match=f"{said}: is not the default"):
        contribute(study)


def test_runs_of_another_optimizer_are_none_of_the_table(tiny_model_folder: Path, tmp_path: Path) -> None:
    """However many they are: their learning rates say nothing of AdamW's."""
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    path.write_text(path.read_text().replace("learning_rate: {low", "optimizer: [muon, adamw], learning_rate: {low", 1))
    path.write_text(path.read_text().replace("baseline: {", "baseline: {optimizer: muon, "))
    prepare(path)
    found = locate(path)
    record = Record(found.url, found.name, presets.build(found.config.space, lora=True), fixed={})

    def told(optimizer: str, rate: float) -> None:
        point = {"rank": 4, "alpha": 32, "dropout": 0.0, "learning_rate": rate, "optimizer": optimizer}
        trial = record.enqueue(point, origin="search", seed=0)
        record.tell(Outcome(trial.number, 0, Ending.COMPLETE, 2.0), elapsed=1.0)

    for rate in RATES[:3]:
        told("muon", rate)
    with pytest.raises(InputError, match="optimizer: is not the default"):
        contribute(path)
    for rate in RATES[:2]:
        told("adamw", rate)
    task, left = contribute(path)
    assert ([run.learning_rate for run in task.runs], left) == (pytest.approx(RATES[:2]), 3)
