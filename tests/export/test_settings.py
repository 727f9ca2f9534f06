"""`export --config` as a user meets it: what the settings say of a trial, its baseline and an adapter's folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshtune import api
from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.export.settings import export_settings
from meshtune.export.train import train
from meshtune.study.status import status
from meshtune.system.yaml_file import parse
from tests.conftest import WORDS
from tests.export.test_takeaway import finish
from tests.here import trials_here


def tiny_study(model: Path, folder: Path, *, learning_rate: str, baseline: str) -> Path:
    """The folder of a finished study of one trial, of three epochs."""
    rows = [{"instruction": f"{n}: repeat", "input": "", "output": WORDS[n % len(WORDS)]} for n in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "study.yaml").write_text(
        f"model: {model}\n"
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
        "training: {epochs: 3, batch_size: 8, precision: float32, lr_scheduler: constant}\n"
        f"space: {{learning_rate: {learning_rate}}}\n"
        f"baseline: {baseline}\n"
        "sampler: random\n"
        "budget: {trials: 1}\n"
        "worker: {name: local, processes: 1, threads: 1}\n",
        encoding="utf-8",
    )
    with trials_here():
        finish(folder / "study.yaml")
    return folder / "study"


@pytest.fixture(scope="module")
def rough(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trial learns too fast, so that an early epoch is its best; the baseline is outside the space."""
    folder = tmp_path_factory.mktemp("rough")
    return tiny_study(
        tiny_model_folder, folder, learning_rate="{low: 0.5, high: 0.6}", baseline="{learning_rate: 1e-3}"
    )


def text_of(written: dict[str, Any]) -> str:
    return (Path(written["folder"]) / written["files"][0]).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_epoch_that_was_kept_and_the_baseline_outside_the_space(rough: Path, tmp_path: Path) -> None:
    known = status(rough, trials=True)
    losses = known["all"][0]["losses"]
    kept = losses.index(min(losses)) + 1
    assert kept < 3
    assert "trial" not in known["baseline"]
    told = CliRunner().invoke(app, ["export", str(rough), str(tmp_path / "out"), "--config", "axolotl"])
    assert told.exit_code == 0
    assert f"note: epochs: the loss was lowest after epoch {kept} of 3, and that adapter was kept" in told.stderr
    head = " ".join((tmp_path / "out" / "axolotl.yaml").read_text().replace("#", "").split())
    assert f"validation loss of the baseline {known['baseline']['loss']:.6g}" in head


@pytest.mark.slow
def test_a_baseline_that_failed_has_no_loss(tiny_model_folder: Path, tmp_path: Path) -> None:
    learning_rate = "{low: 1e29, high: 1e30, log: true}"
    baseline = "{learning_rate: 1e30}"
    study = tiny_study(tiny_model_folder, tmp_path, learning_rate=learning_rate, baseline=baseline)
    assert status(study)["baseline"] == {**status(study)["baseline"], "trial": 0, "loss": None}
    written = export_settings(study, tmp_path / "out", "trl", trial="baseline")
    head = " ".join(text_of(written).replace("#", "").split())
    assert "trial 0. Validation loss of the untuned model" in head
    assert " inf" not in head


def test_the_settings_of_an_adapter_that_was_trained_again(rough: Path, tmp_path: Path) -> None:
    result = train(rough, tmp_path / "final", epochs=1, seed=7)
    written = export_settings(tmp_path / "final", tmp_path / "out", "axolotl")
    values = parse(text_of(written)).values
    assert (values["num_epochs"], values["seed"]) == (1, 7)
    assert values["datasets"][0]["path"] == str(rough.parent / "rows.jsonl")
    assert f"Validation loss {result['run']['loss']:.6g}," in text_of(written)
    rough.rename(rough.with_name("moved"))
    try:
        with pytest.raises(InputError, match=r"--config needs the study.* name the study, with --trial 0"):
            export_settings(tmp_path / "final", tmp_path / "again", "axolotl")
    finally:
        rough.with_name("moved").rename(rough)


def test_from_python(rough: Path, tmp_path: Path) -> None:
    study = api.load(rough)
    assert study.export(tmp_path / "out", config="peft")["files"] == ["adapter_config.json"]
    with pytest.raises(InputError, match="give one of them"):
        study.export(tmp_path / "both", config="peft", merge=True)
