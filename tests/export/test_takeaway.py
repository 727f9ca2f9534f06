"""`train` and `export` as a user meets them: what they write, what they refuse, and that it works without meshtune."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.errors import InputError, StorageError, StudyBusy
from meshtune.export.export import as_text, export
from meshtune.export.train import train
from meshtune.plan.locate import locate
from meshtune.study.status import status
from meshtune.study.tune import tune
from meshtune.system.lease import lease
from meshtune.training.trainer import train as trainer
from meshtune.trial import Progress
from tests.finalists.made import finished_study
from tests.kill import command_study, meshtune

PLAIN = """
import sys
assert not any(name.startswith("meshtune") for name in sys.modules)
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
from peft import AutoPeftModelForCausalLM
adapter = AutoPeftModelForCausalLM.from_pretrained(sys.argv[2], dtype="float32")
turn = [{"role": "user", "content": "3: repeat"}]
asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answers = [m.generate(**asked, max_new_tokens=8, do_sample=False)[0].tolist() for m in (model, adapter)]
assert answers[0] == answers[1], answers
print(len(answers[0]) - asked["input_ids"].shape[1])
"""


def finish(path: Path) -> None:
    """Run a study to its end, in this process."""
    for _ in tune(locate(path)):
        pass


@pytest.fixture(scope="module")
def study(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of the tiny model: three trials; the best and the baseline keep their adapters."""
    folder = tmp_path_factory.mktemp("takeaway")
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 8}\n"
        "training: {epochs: 2, batch_size: 8, precision: float32, keep_adapters: 1}\n"
        "space: {rank: {low: 2, high: 16, power_of: 2}, learning_rate: {low: 1e-4, high: 3e-2, log: true}}\n"
        "baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}\n"
        "sampler: random\n"
        "budget: {trials: 3}\n"
    )
    return finished_study(folder, tiny_model_folder, settings, rows=40)


def record(study: Path) -> dict[str, Any]:
    return status(study, trials=True)


@pytest.fixture(scope="module")
def adapter(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best trial's adapter, exported."""
    out = tmp_path_factory.mktemp("exported") / "adapter"
    export(study, out)
    return out


def test_the_exported_adapter_is_the_best_trials(study: Path, adapter: Path) -> None:
    best = record(study)["best"]
    assert {path.name for path in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    weights = "adapter_model.safetensors"
    assert (adapter / weights).read_bytes() == (study / best["adapter"] / weights).read_bytes()
    facts = json.loads((adapter / "training.json").read_text())
    assert facts["point"]["hyperparameters"] == best["hyperparameters"]
    assert facts["run"]["loss"] == best["loss"] == min(e["validation_loss"] for e in facts["run"]["epochs"])
    assert facts["study"]["best_against_untuned"]["rows"] == 8
    assert (adapter / facts["study"]["folder"]).resolve() == study.resolve()
    assert str(study.parent) not in (adapter / "README.md").read_text() + json.dumps(facts)


def test_vllm_takes_the_folder(adapter: Path) -> None:
    """What the reader of vLLM 0.33.0 asks for (`vllm/lora/peft_helper.py`), and the names of its loader."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert isinstance(config["r"], int)
    assert 0 < config["r"] <= 512
    assert config["lora_alpha"] > 0
    assert config["target_modules"]
    assert config["bias"] == "none"
    refused = ("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication")
    assert not any(config.get(name) for name in (*refused, "use_bdlora", "use_qalora"))
    assert config["init_lora_weights"] in (True, "gaussian", "orthogonal")  # others would change the base again
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    modules = "|".join(name.rpartition(".")[2] for name in config["target_modules"])
    assert all(re.fullmatch(rf"base_model\.model\..+\.({modules})\.lora_[AB]\.weight", name) for name in names)


def test_it_is_listed_for_the_hub(study: Path, tmp_path: Path) -> None:
    """Twice: what stands there is not written again; what is another trial's is refused."""
    command = ["export", str(study), str(tmp_path / "out"), "--push-to-hub", "me/x", "--dry-run", "--json"]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    assert json.loads(first.stdout)["hub"] == json.loads(second.stdout)["hub"]
    assert {file["path"] for file in json.loads(first.stdout)["hub"]["files"]} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "a folder that others do not have" in first.stderr
    other = next(t["trial"] for t in record(study)["all"] if t["trial"] != record(study)["best"]["trial"])
    refused = CliRunner().invoke(app, [*command, "--trial", str(other)])
    assert "name another folder" in str(refused.exception)


def test_merged_it_answers_in_plain_transformers_as_the_adapter_does(
    study: Path, adapter: Path, tmp_path: Path
) -> None:
    result = export(adapter, tmp_path / "merged", merge=True)
    assert result["merged"]["loss"] == pytest.approx(record(study)["best"]["loss"], abs=1e-4)
    assert "validation loss of the merged model" in as_text(result)
    assert result["warnings"] == []
    answered = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "merged"), str(adapter)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
    )
    assert answered.returncode == 0, answered.stderr
    assert int(answered.stdout) > 0
    with pytest.raises(InputError, match="holds a merged model"):
        export(tmp_path / "merged", tmp_path / "again")


@pytest.mark.parametrize("merge", [False, True])
def test_a_damaged_adapter_is_not_exported(adapter: Path, tmp_path: Path, merge: bool) -> None:
    """Of which a part is missing, as after a copy that was cut short; nothing is written."""
    shutil.copytree(adapter, tmp_path / "cut")
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"adapter is damaged .*train it again"):
        export(tmp_path / "cut", tmp_path / "out", merge=merge)
    assert not (tmp_path / "out").exists()


def test_a_merged_model_that_lost_says_so(study: Path, adapter: Path, tmp_path: Path) -> None:
    """Recorded losses that the merged model does not have, and data that are no longer there."""
    facts = json.loads((adapter / "training.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for path in adapter.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    facts["study"]["folder"] = str(study)
    (other / "training.json").write_text(json.dumps({**facts, "run": {**facts["run"], "loss": 1.0}}))
    result = export(other, tmp_path / "merged", merge=True)
    assert "warning: the merged model's validation loss is" in as_text(result)
    facts["data"]["fingerprint"] = "0" * 64
    (other / "training.json").write_text(json.dumps(facts))
    result = export(other, tmp_path / "unmeasured", merge=True)
    assert result["merged"]["loss"] is None
    assert "was not measured" in as_text(result)


def test_trained_once_more_it_is_the_trial_again(study: Path, tmp_path: Path) -> None:
    """Also where its adapter was not kept."""
    known = record(study)
    kept = {known["best"]["trial"], known["baseline"]["trial"]}
    dropped = next(trial for trial in known["all"] if trial["trial"] not in kept)
    with pytest.raises(InputError, match=rf"was not kept .* `meshtune train .* --trial {dropped['trial']}`"):
        export(study, tmp_path / "out", trial=dropped["trial"])
    events: list[Progress | str] = []
    result = train(study, tmp_path / "out", trial=dropped["trial"], report=events.append)
    assert result["run"]["loss"] == pytest.approx(dropped["loss"], abs=1e-4)
    assert result["run"]["tokens"] == dropped["tokens"]
    assert [epoch["validation_loss"] for epoch in result["run"]["epochs"]] == pytest.approx(dropped["losses"], abs=1e-4)
    steps = [event.step for event in events if isinstance(event, Progress)]
    assert max(steps) == 2 * 3  # epochs of 24 rows in batches of 8
    assert sum(event.startswith("epoch ") for event in events if isinstance(event, str)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    with pytest.raises(InputError, match="holds a finished training"):
        train(study, tmp_path / "out", trial=dropped["trial"])


def test_all_rows_another_length_and_another_seed(study: Path, tmp_path: Path) -> None:
    result = train(study, tmp_path / "out", all_data=True, epochs=1, seed=7)
    assert (result["run"]["rows"], result["run"]["seed"], result["run"]["loss"]) == (40, 7, None)
    assert [epoch["validation_loss"] for epoch in result["run"]["epochs"]] == [None]
    assert "nothing was held out" in (tmp_path / "out" / "README.md").read_text()
    merged = export(tmp_path / "out", tmp_path / "merged", merge=True)["merged"]
    assert merged["loss"] == pytest.approx(merged["adapter_loss"], abs=1e-4)  # the adapter was measured for it


def test_keys_of_the_training_are_set_for_once(study: Path, tmp_path: Path) -> None:
    """Also one that the trial would decide; what decides nothing of a training is refused, all of it at once."""
    events: list[Progress | str] = []
    changes = ("training.batch_size=4", "training.epochs=1", "training.lr_scheduler=constant", "worker.threads=1")
    result = train(study, tmp_path / "out", trial="baseline", overrides=changes, report=events.append)
    assert max(event.step for event in events if isinstance(event, Progress)) == 6  # one epoch of 24 rows
    made = {key: result["training"][key] for key in ("batch_size", "epochs", "lr_scheduler", "learning_rate")}
    assert made == {"batch_size": 4, "epochs": 1, "lr_scheduler": "constant", "learning_rate": 1e-3}
    with pytest.raises(InputError) as caught:
        train(study, tmp_path / "other", overrides=("seed=3", "data.rows=4", "training.batch_size=0"))
    what = "decides nothing of this training; training.KEY, model.device and worker.threads do"
    assert str(caught.value).splitlines() == [
        f"--set seed=3: seed: {what}; the seed is `--seed N`",
        f"--set data.rows=4: data.rows: {what}; `--all-data` takes all rows",
    ]
    with pytest.raises(InputError, match=r"--set training.batch_size=0: training.batch_size: .*above 0|at least 1"):
        train(study, tmp_path / "other", overrides=("training.batch_size=0",))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", ["train", "export"])
def test_the_help_lists_every_point_that_can_be_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    said = CliRunner().invoke(app, [command, "--help"]).output
    assert "best|recommended|baseline|N" in said
    assert ("--set" in said) is (command == "train")


@pytest.mark.slow
def test_an_interrupt_ends_it_and_the_same_command_finishes_it(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = meshtune("train", study, out, "--epochs", "15", "--trial", "baseline")
    words = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            words += line
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "run the same command again" in words
    assert "Traceback" not in words
    assert not out.exists()
    if "checkpoint" not in signature(trainer).parameters:
        pytest.skip("this trainer takes no checkpoint, so there is nothing to go on from")
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    with pytest.raises(InputError, match=r"recipe.epochs: was 15, is now 2\n.*unfinished training of other settings"):
        train(study, out, epochs=2, trial="baseline")
    done = train(study, out, epochs=15, trial="baseline")
    whole = train(study, tmp_path / "whole", epochs=15, trial="baseline")
    assert done["run"]["epochs"] == whole["run"]["epochs"]
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


NOTEBOOK = """
import os, signal, sys, threading, time
from pathlib import Path
import meshtune
from meshtune.export.train import train
from meshtune.errors import Interrupted
from meshtune.trial import Progress
study, out = meshtune.load(sys.argv[1]), Path(sys.argv[2])
usual = signal.getsignal(signal.SIGINT)
others = (signal.SIGTERM, signal.SIGUSR1)
def interrupt():
    while signal.getsignal(signal.SIGINT) is usual:
        time.sleep(0.001)
    print(*(signal.getsignal(number).name for number in others))
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    study.train(out, trial="baseline", epochs=15)
except KeyboardInterrupt as error:
    print(error)
print(signal.getsignal(signal.SIGINT) is usual, out.with_name("out.unfinished").exists())
def twice(event):
    if isinstance(event, Progress):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
try:
    train(study.folder, out, trial="baseline", epochs=15, report=twice)
except Interrupted as error:
    print(error)
"""


@pytest.mark.slow
def test_in_a_notebook_interrupts_end_the_call_and_not_the_process(study: Path, tmp_path: Path) -> None:
    """One while the model is loaded, when nothing can be saved; then two at once while it is trained."""
    command = [sys.executable, "-c", NOTEBOOK, str(study), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ended = "interrupted: nothing of the training was saved; run the same command again to start over"
    assert done.stdout.splitlines() == ["SIG_DFL SIG_DFL", ended, "True False", ended]


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("99", "no such trial; its trials are 0 to 2"),
        ("bset", "allowed are best, recommended, baseline or a trial's number. Did you mean `best`?"),
        ("-1", "allowed are best, recommended, baseline or a trial's number"),
    ],
)
def test_a_trial_that_there_is_not(study: Path, tmp_path: Path, trial: str, message: str) -> None:
    for command in (train, export):
        with pytest.raises(InputError) as caught:
            command(study, tmp_path / "out", trial=trial)
        assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_epochs_and_a_seed_that_are_none(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"epochs: `0` is not allowed; a whole number at least 1"):
        train(study, tmp_path / "out", epochs=0)
    with pytest.raises(InputError, match="seed -1"):
        train(study, tmp_path / "out", seed=-1)


def test_a_place_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for command in (train, export):
        with pytest.raises(StorageError, match="cannot be written"):
            command(study, tmp_path / "file" / "out")


def test_a_place_that_is_taken(study: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for command in (train, export):
        for name, message in (("file", "is a file"), ("full", "is not empty"), (str(adapter), "holds a finished")):
            with pytest.raises(InputError, match=message):
                command(study, tmp_path / name)
    (tmp_path / "empty").mkdir()
    export(study, tmp_path / "empty", trial="baseline")
    assert (tmp_path / "empty" / "README.md").is_file()
    with pytest.raises(InputError, match="holds one adapter, of trial 0"):
        export(tmp_path / "empty", tmp_path / "out", trial=2)


def test_another_process_that_trains_there(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    with lease(tmp_path / "out.unfinished"), pytest.raises(StudyBusy, match=f"process {os.getpid()} .* trains into it"):
        train(study, tmp_path / "out")


def test_a_training_that_cannot_begin_leaves_nothing(study: Path, tmp_path: Path) -> None:
    """Here because the study's data were changed since."""
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    manifest = copy / "data" / "manifest.json"
    held = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**held, "fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="holds other data than the study was made with"):
        train(copy, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_on_the_command_line_results_go_to_standard_output_and_words_to_standard_error(
    study: Path, tmp_path: Path
) -> None:
    told = CliRunner().invoke(app, ["export", str(study), str(tmp_path / "out"), "--trial", "baseline", "--json"])
    assert told.exit_code == 0
    result = json.loads(told.stdout)
    assert result["folder"] == str(tmp_path / "out")
    assert result["point"]["name"] == "trial 0"
    assert "to load it:" in told.stderr
    command = ["train", str(study), str(tmp_path / "again"), "--epochs", "1", "--json"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0
    assert json.loads(told.stdout)["run"]["epochs"][0]["epoch"] == 1
    assert "epoch 1/1: training loss" in told.stderr
    assert "of the study had" in told.stderr


def test_a_study_of_a_command_and_one_that_has_not_begun(tmp_path: Path) -> None:
    path = command_study(tmp_path, sampler="random", trials=1)
    for command in (train, export):
        with pytest.raises(InputError, match="has not been started"):
            command(path, tmp_path / "out")
    finish(path)
    for command in (train, export):
        with pytest.raises(InputError, match="is a command, which trains by itself"):
            command(path, tmp_path / "out")
