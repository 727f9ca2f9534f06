"""Studies, adapters and votes that version 0.1 left behind open, go on, and give the numbers that 0.1 gave.

`version-0.1.tar.xz` was written by meshtune 0.1.0 at commit ef33201 on a CPU: a tiny random Llama with its rows, and a
finished study of each kind. `version-0.1.golden.json` holds the trials and the status of the same studies after 0.1 had
continued them (lora to 6 trials, mads and gp to 16, the others by 2 or not at all).
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.kill import command

HERE = Path(__file__).parent
GOLDEN: dict[str, Any] = json.loads((HERE / "version-0.1.golden.json").read_text(encoding="utf-8"))
WHERE_IT_WAS = "/elsewhere/work"  # which stands in studies for the model's folder
WILD = 0.5  # a step of the learning rate from which on rounding decides: instruction sets give losses .15 apart


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version-0.1")
    with tarfile.open(HERE / "version-0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def work(unpacked: Path, tmp_path: Path) -> Path:
    """The folder of 0.1, as if it had always lain here: names of folders are replaced where they stand."""
    folder = tmp_path / "work"
    shutil.copytree(unpacked, folder)
    for path in folder.rglob("*"):
        if path.suffix in (".yaml", ".json"):
            path.write_text(path.read_text(encoding="utf-8").replace(WHERE_IT_WAS, str(folder)), encoding="utf-8")
        elif path.name == "study.db":
            connection = sqlite3.connect(path)
            change = "UPDATE study_user_attributes SET value_json = replace(value_json, ?, ?)"
            connection.execute(change, (WHERE_IT_WAS, str(folder)))
            connection.commit()
            connection.close()
    return folder


def meshtune(*arguments: str | Path) -> str:
    done = command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def go_on(work: Path, name: str, trials: int) -> None:
    """Continue the study to so many trials."""
    config = work / f"{name}.yaml"
    lines = config.read_text(encoding="utf-8").splitlines()
    config.write_text("\n".join([*lines[:-1], f"budget: {{trials: {trials}}}"]), encoding="utf-8")
    meshtune("tune", config)


def trials(work: Path, name: str, study: str) -> list[dict[str, Any]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{work / name / 'study.db'}")
    try:
        loaded = optuna.load_study(study_name=study, storage=storage)
        return [
            {"number": t.number, "state": t.state.name, "values": t.values, "params": t.params} for t in loaded.trials
        ]
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize(("name", "before", "after"), [("mads", 12, 16), ("tpe", 8, 10)])
def test_a_study_goes_on_as_it_would_have(work: Path, name: str, before: int, after: int) -> None:
    assert trials(work, name, name) == GOLDEN["trials"][f"{name}:{name}"][:before]
    go_on(work, name, after)
    assert trials(work, name, name) == GOLDEN["trials"][f"{name}:{name}"]


def test_a_study_of_a_sampler_that_has_changed_goes_on(work: Path) -> None:
    go_on(work, "gp", 16)
    after = trials(work, "gp", "gp")
    assert after[:12] == GOLDEN["trials"]["gp:gp"][:12]
    assert [t["state"] for t in after[12:]] == ["COMPLETE"] * 4


def test_a_study_of_a_sampler_that_is_gone_is_read(work: Path, tmp_path: Path) -> None:
    """`fill` of MADS: what is recorded stays in reach, and `tune` says in one message what to do."""
    config = work / "fill.yaml"
    recorded = GOLDEN["trials"]["fill:fill"][: len(trials(work, "fill", "fill"))]
    assert trials(work, "fill", "fill") == recorded
    status = json.loads(meshtune("status", config, "--json"))
    assert status["best"]["loss"] == min(trial["values"][0] for trial in recorded)
    meshtune("report", config)
    assert (work / "fill" / "report" / "index.html").is_file()
    ended = command("tune", config)
    assert ended.returncode == 2
    message = " ".join(ended.stderr.split())
    assert message.count("`fill`") == 2
    assert "can be read (status, report, export, train), not continued" in message
    assert "take `fill` out, give another `folder`, and name the old one: `warm_start: FOLDER`" in message
    text = config.read_text(encoding="utf-8").replace(", options: {fill: batch-gp}", "")
    config.write_text(f"{text}\nfolder: {tmp_path / 'new'}\nwarm_start: {work / 'fill'}\n", encoding="utf-8")
    meshtune("tune", config)


def test_rounds_are_read(work: Path) -> None:
    status = json.loads(meshtune("status", work / "rounds.yaml", "--json"))
    assert status["best"]["loss"] == min(t["values"][0] for t in GOLDEN["trials"]["rounds:rounds.round2"])


@pytest.mark.parametrize(
    ("name", "number"),
    [("lora", 6), *(pytest.param(*more, marks=pytest.mark.slow) for more in (("guided", 6), ("stopping", 10)))],
)
def test_trainings_go_on_with_the_same_points_and_losses(work: Path, name: str, number: int) -> None:
    go_on(work, name, number)
    for ours, theirs in zip(trials(work, name, name), GOLDEN["trials"][f"{name}:{name}"], strict=True):
        assert (ours["number"], ours["state"], ours["params"]) == (theirs["number"], theirs["state"], theirs["params"])
        assert ours["values"] == pytest.approx(theirs["values"], abs=1e-4 if ours["params"]["step"] < WILD else 0.4)
    status = json.loads(meshtune("status", work / f"{name}.yaml", "--json"))
    expected = GOLDEN["status"][name]
    for model in ("best", "baseline", "untuned"):
        assert status[model]["loss"] == pytest.approx(expected[model]["loss"], abs=1e-4)
        assert status[model]["test_loss"] == pytest.approx(expected[model]["test_loss"], abs=1e-4)
    assert status["best_against_baseline"] == pytest.approx(expected["best_against_baseline"], abs=1e-4)


def test_an_adapter_is_exported(work: Path, tmp_path: Path) -> None:
    meshtune("export", work / "lora.yaml", tmp_path / "out", "--trial", "2")
    before, after = (
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        for folder in (work / "lora" / "adapters" / "2", tmp_path / "out")
    )
    assert {key: after[key] for key in ("r", "lora_alpha", "lora_dropout")} == {
        key: before[key] for key in ("r", "lora_alpha", "lora_dropout")
    }


def test_votes_are_analyzed(work: Path) -> None:
    found = json.loads(meshtune("prefer", "analyze", work / "preference", "--close", "--json"))
    assert found["votes"] == GOLDEN["preference"]["votes"]
    for ours, theirs in zip(found["pairs"], GOLDEN["preference"]["pairs"], strict=True):
        assert {key: ours[key] for key in ("wins", "ties", "losses")} == {
            key: theirs[key] for key in ("wins", "ties", "losses")
        }
        assert ours["net"] == pytest.approx(theirs["net"])
