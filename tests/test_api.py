"""The Python interface: scripts, notebooks and threads run, continue and read studies as the commands do."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import meshtune
from meshtune.errors import InputError, StudyMismatch
from meshtune.testing.processes import descendants, gone
from tests.kill import command_study, run

ROOT = Path(__file__).parents[1]
TRIALS = 6
VALUES: dict[str, Any] = {
    "objective": {"command": [sys.executable, "-c", "print('{\"loss\": ' + str(abs({x} - 2)) + '}')", "{kind}"]},
    "space": {"x": {"low": 0, "high": 4, "integer": True}, "kind": ["a", "<b>"]},
    "baseline": {"x": 0, "kind": "<b>"},
    "sampler": "random",
    "budget": {"trials": 3},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> meshtune.Study:
    path = command_study(tmp_path_factory.mktemp("finished"), trials=TRIALS, sampler="random")
    return meshtune.tune(path, progress=False)


def test_importing_it_is_light() -> None:
    code = "import sys, meshtune; from meshtune import tune, load, Study; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "optuna", "pandas", "numpy", "scipy", "rich", "pydantic", "plotly"}


def test_it_offers_what_it_lists() -> None:
    assert set(meshtune.__all__) <= set(dir(meshtune))
    assert all(getattr(meshtune, name) for name in meshtune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tun'"):
        meshtune.tun  # noqa: B018


def test_its_record_is_that_of_the_command(finished: meshtune.Study, tmp_path: Path) -> None:
    path = command_study(tmp_path, trials=TRIALS, sampler="random")
    assert run(path).returncode == 0
    assert same(meshtune.load(path)) == same(finished)


def same(study: meshtune.Study) -> list[dict[str, Any]]:
    """What must be equal in two runs of one study."""
    keys = ("trial", "origin", "block", "ending", "loss", "losses", "hyperparameters")
    return [{key: trial[key] for key in keys} for trial in study.status()["all"]]


def test_what_it_found(finished: meshtune.Study) -> None:
    status = finished.status()
    assert finished.state == "finished"
    assert finished.best.loss == status["best"]["loss"] == min(finished.trials["loss"].dropna())
    assert finished.best.trial == status["best"]["trial"]
    assert finished.baseline is not None
    assert dict(finished.baseline.hyperparameters) == {"x": 1.0, "y": 0.5, "k": 3}
    assert finished.baseline.trial == 0
    assert finished.untuned is finished.difference is finished.best.adapter is finished.best.test_loss is None
    assert finished.config.budget.trials == TRIALS
    assert meshtune.load(finished.folder) == meshtune.load(finished.folder.parent) == finished
    assert meshtune.load(str(finished.folder) + ".yaml") == finished


def test_trials_are_a_frame(finished: meshtune.Study) -> None:
    frame, trials = finished.trials, finished.status()["all"]
    assert list(frame["number"]) == list(range(TRIALS))
    columns = ["number", "ending", "origin", "block", "pack", "loss", "params_x", "params_y", "params_k", "losses"]
    assert list(frame.columns[: len(columns)]) == columns
    assert set(frame.columns) >= {"seconds", "tokens", "peak_memory", "message"}
    for row, trial in zip(frame.to_dict("records"), trials, strict=True):
        assert row["ending"] == trial["ending"]
        assert {name: row[f"params_{name}"] for name in "xyk"} == trial["hyperparameters"]
        assert row["losses"] == trial["losses"]
    assert str(frame["tokens"].dtype) == str(frame["peak_memory"].dtype) == "Int64"
    assert str(frame["loss"].dtype) == "float64"


def test_answers_are_a_frame(finished: meshtune.Study) -> None:
    assert list(finished.answers.columns) == ["name", "row", "prompt", "reference", "answer"]
    assert len(finished.answers) == 0
    folder = finished.folder / "evaluation" / "answers"
    folder.mkdir(parents=True)
    for name in ("trial-10", "trial-3", "untuned"):
        lines = [{"row": n, "prompt": "p", "reference": "r", "answer": name, "scores": {"exact": n}} for n in (4, 7)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    frame = finished.answers
    assert list(frame["name"]) == ["untuned"] * 2 + ["trial-3"] * 2 + ["trial-10"] * 2
    assert list(frame.columns) == ["name", "row", "prompt", "reference", "answer", "scores_exact"]
    assert frame.groupby("name")["scores_exact"].mean()["untuned"] == 5.5
    (folder / "untuned.jsonl").write_text('{"row": 1}\n')
    with pytest.raises(InputError, match=r"untuned\.jsonl:1: is no answer"):
        finished.answers  # noqa: B018
    with pytest.raises(InputError, match=r"untuned\.jsonl:1: is no answer"):
        finished.status()
    shutil.rmtree(folder)


def test_the_optuna_study_is_a_copy(finished: meshtune.Study) -> None:
    copy = finished.optuna
    assert copy.best_trial.number == finished.best.trial
    assert [trial.user_attrs["hyperparameters"] for trial in copy.trials] == [
        trial["hyperparameters"] for trial in finished.status()["all"]
    ]
    assert [trial.params for trial in copy.trials] == [trial["hyperparameters"] for trial in finished.status()["all"]]
    assert [trial.user_attrs["worse_than_untuned"] for trial in copy.trials] == [False] * TRIALS
    before = same(finished)
    copy.optimize(lambda trial: trial.suggest_float("x", -5, 5), n_trials=1)
    assert len(copy.trials) == TRIALS + 1
    assert same(finished) == before


def test_plain_values_are_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="folder: must be given"):
        meshtune.tune(VALUES)
    study = meshtune.tune(VALUES, folder="made", progress=False)
    assert study.folder == tmp_path / "made"
    assert len(study.trials) == 3
    assert meshtune.load("made") == study
    assert meshtune.tune({**VALUES, "folder": "made"}, trials=5, progress=False) == study
    assert len(study.trials) == 5
    assert meshtune.tune("made", overrides={"budget.trials": 6}, progress=False) == study  # from its own YAML
    assert len(study.trials) == 6
    with pytest.raises(StudyMismatch, match="seed: the study has 0, now given 3"):
        meshtune.tune(VALUES, folder="made", overrides=["seed=3"], progress=False)
    page = study._repr_html_()
    assert "kind &lt;b&gt;" in page
    assert "kind <b>" not in page


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    faulty = {**VALUES, "smapler": "tpe", "budget": {"trials": 0}}
    with pytest.raises(InputError) as caught:
        meshtune.tune(faulty, folder=tmp_path / "never", overrides="seed=-1")
    assert {fault.key for fault in caught.value.faults} == {"smapler", "budget.trials", "seed"}
    assert not (tmp_path / "never").exists()
    with pytest.raises(InputError, match="has not been started"):
        meshtune.load(command_study(tmp_path))


def test_a_study_without_a_complete_trial_says_so(tmp_path: Path) -> None:
    failing = {**VALUES, "objective": {"command": [sys.executable, "-c", "print({x})", "{kind}"]}}
    failing["worker"] = {"name": "local", "attempts": 1}
    study = meshtune.tune(failing, folder=tmp_path / "failing", trials=2, progress=False)
    with pytest.raises(InputError, match=r"no trial is complete, so there is no best one .*2 crashed"):
        study.best  # noqa: B018
    assert set(study.trials["ending"]) == {"crashed"}
    assert "2 trials" in repr(study)
    assert "No trial completed" in study._repr_html_()


def test_it_shows_itself(finished: meshtune.Study, tmp_path: Path) -> None:
    assert f"finished, {TRIALS} trials, best " in repr(finished)
    assert "\n" not in repr(finished)
    page = finished._repr_html_()
    assert page.count("<tr>") == 3
    assert f"best (trial {finished.best.trial})" in page
    gone_since = meshtune.Study(tmp_path / "gone")
    assert repr(gone_since).endswith("gone': cannot be read>")
    assert "cannot be read&gt;" in gone_since._repr_html_()
    assert dataclasses.replace(finished.best, loss=0.5).loss == 0.5


def test_progress_goes_to_standard_error_or_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = meshtune.tune(VALUES, folder=tmp_path / "made", trials=1)
    out, shown = capfd.readouterr()
    assert not out
    assert "[1/1] trial 0" in shown
    meshtune.tune(study.folder, trials=2, progress=False)
    assert capfd.readouterr() == ("", "")


def test_it_runs_in_a_thread(tmp_path: Path) -> None:
    found: list[meshtune.Study] = []
    values = {**VALUES, "sampler": "mads"}
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(
        target=lambda: found.append(meshtune.tune(values, folder=tmp_path / "made", progress=False))
    )
    thread.start()
    thread.join(timeout=60)
    assert found[0].best.loss is not None
    assert signal.getsignal(signal.SIGINT) is before


def test_asked_to_stop_it_returns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.3")
    path = command_study(tmp_path, trials=6, sampler="random", block=2)
    folder = tmp_path / "study"

    def ask() -> None:
        while not (folder / "lease.json").exists() or not (folder / "logs").exists():
            time.sleep(0.02)
        (folder / "stop.request").touch()

    thread = threading.Thread(target=ask)
    thread.start()
    study = meshtune.tune(path, progress=False)
    thread.join()
    assert study.state == "stopped"
    assert study.trials["ending"].notna().sum() < 6
    assert meshtune.tune(path, progress=False).state == "finished"


SCRIPT = """
import meshtune
study = meshtune.tune("study.yaml")
print(len(study.trials), study.state)
"""


def test_a_script_needs_no_main_guard_and_an_interrupt_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGRAM_SECONDS", "0.4")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command_study(tmp_path, trials=6, sampler="random", block=2)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/6]"):
            break
    family = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert "interrupted; what was finished is saved, and the same call continues" in words
    assert "KeyboardInterrupt" in words
    assert gone(family)
    assert not (tmp_path / "study" / "lease.json").exists()
    os.environ["PROGRAM_SECONDS"] = "0"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stdout == "6 finished\n"


@pytest.mark.slow
def test_of_a_lora_study(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}: repeat", "input": "", "output": "a b " * (1 + n % 5)} for n in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    values = {
        "model": str(tiny_model_folder),
        "data": {"sources": [{"path": str(tmp_path / "rows.json")}], "validation": 8, "test": 8},
        "training": {"epochs": 1, "batch_size": 8},
        "generation": {"rows": 0},
        "sampler": "random",
        "budget": {"trials": 2},
    }
    study = meshtune.tune(values, folder=tmp_path / "made", progress=False)
    assert study.untuned is not None
    assert study.untuned.trial is study.untuned.adapter is None
    assert study.untuned.test_loss is not None
    assert study.best.adapter is not None
    assert (study.best.adapter / "adapter_config.json").exists()
    assert study.baseline is not None
    assert study.baseline.adapter == study.best.adapter.parent / "0"
    assert {"params_rank", "params_alpha", "params_learning_rate"} <= set(study.trials.columns)
    written = study.export(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert written["folder"]
    study.export(tmp_path / "merged", trial=0, merge=True)
    assert (tmp_path / "merged" / "config.json").exists()
    study.train(tmp_path / "final", trial="baseline", epochs=1, all_data=True)
    assert (tmp_path / "final" / "adapter_config.json").exists()
    if study.best.trial != 0:
        assert study.difference is not None
        assert study.difference.low <= study.difference.mean <= study.difference.high
