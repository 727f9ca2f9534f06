"""`check` as a user meets it: memory and time of a study, what cannot fit, rows with what is learned."""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.config import file, presets
from meshtune.config.budget import BudgetConfig, EarlyStoppingConfig
from meshtune.config.sections import Interval
from meshtune.data.summary import SideSummary, Summary
from meshtune.errors import InputError
from meshtune.plan.forecast import (
    AfterSearch,
    busy,
    disk_lines,
    early_stopping_lines,
    forecast,
    most_saved,
    rung_tokens,
    sooner,
    time_line,
)
from meshtune.plan.init import init
from meshtune.space.space import expected_point
from meshtune.study.check import check
from meshtune.system.text import duration
from meshtune.testing.processes import descendants, gone
from meshtune.training.memory.formula import Batch
from meshtune.training.memory.pilot import Pilot
from tests.conftest import WORDS
from tests.kill import command_study, meshtune
from tests.training.architectures import REFUSED, make


@pytest.fixture
def study(tmp_path: Path, tiny_model_folder: Path) -> Path:
    rows = [{"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % 12])} for n in range(60)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path = tmp_path / "study.yaml"
    path.write_text(
        f"model: {tiny_model_folder}\ndata: {{sources: [{{path: rows.json}}], validation: 10, test: 10}}\n"
        "training: {batch_size: 4}\nbudget: {trials: 5, price_per_hour: 3600}\nworker: {processes: 2}\n"
    )
    return path


def test_all_files_that_are_missing_are_named_at_once(study: Path) -> None:
    """The model's folder, sources, rows of a side and metrics, each with its key."""
    study.write_text(
        "model: ./nowhere\nmetrics: {exact: {file: metric.py, function: score}}\n"
        "data: {sources: [{path: rows.json}, {path: rose.json}, {path: none.json}], validation: {path: held.json}}\n"
    )
    with pytest.raises(InputError) as caught:
        check(study)
    assert [fault.key for fault in caught.value.faults] == [
        "model.name",
        "data.sources.1.path",
        "data.sources.2.path",
        "data.validation.path",
        "metrics.exact.file",
    ]
    assert str(caught.value.faults[1]).endswith("there is no such file. Did you mean `rows.json`?")


def test_devices_of_a_trial(study: Path) -> None:
    """On a CPU they are processes, each of which holds the base; a program, and what shares nothing, have none."""
    lines, facts = check(study, overrides=("worker.devices_per_trial=2", "worker.threads=1"), measure=False)
    assert "2 at once on cpu with 1 thread, 2 devices a trial" in lines
    assert "for each of 4 processes" in lines
    assert facts["processes"] == [{"device": "cpu", "threads": 1, "devices": 2}] * 2
    own = ("worker.devices_per_trial=2", "training.trainer={import: 'json:loads'}")
    with pytest.raises(InputError, match=r"worker\.devices_per_trial: a trainer of your own has one device"):
        check(study, overrides=own, measure=False)
    reference = ("worker.devices_per_trial=2", "worker.threads=1", "training.trainer=transformers")
    assert "2 devices a trial" in check(study, overrides=reference, measure=False)[0]
    same = ("training.precision=float32", "worker.shard_model=true")
    cut, cut_facts = check(study, overrides=("worker.devices_per_trial=2", "worker.threads=1", *same))
    assert "2 devices a trial, the base's layers cut over them" in cut
    base = [each["memory"]["predicted"]["base"] for each in (facts, cut_facts)]
    assert base[0] / 2 < base[1] < base[0]  # embedding and head are whole on each, and so is a layer of the two
    _, cut_reference = check(study, overrides=(*reference, *same), measure=False)
    assert cut_reference["memory"]["predicted"]["base"] == base[1]
    refused = {"use_dora=true": "DoRA.* reads", "init_lora_weights=pissa": "the start weights `pissa` change"}
    for start, what in refused.items():
        with pytest.raises(InputError, match=rf"worker\.shard_model: {what} the base's weights"):
            check(study, overrides=(*reference[:2], *same, f"training.{start}"), measure=False)
    with pytest.raises(InputError, match="shard_model` cuts the base over several devices: give `devices_per_trial: 2"):
        check(study, overrides=same, measure=False)
    low = ("worker.devices_per_trial=2", "worker.shard_model=true", "training.precision=bfloat16")
    with pytest.raises(InputError, match=r"the base is float32 and trained in bfloat16.*`model\.dtype: bfloat16`"):
        check(study, overrides=low, measure=False)
    worker = "{name: slurm, processes: 1, accelerator: A100, slurm: {gres: 'gpu:1'}, devices_per_trial: 2}"
    with pytest.raises(InputError, match="`slurm` asks for 1 GPUs a job, and a trial takes 2 of them"):
        check(study, overrides=(f"worker={worker}",), measure=False)
    with pytest.raises(InputError, match=r"worker\.devices_per_trial: a program chooses its devices itself"):
        check(command_study(study.parent / "command"), overrides=("worker.devices_per_trial=2",), measure=False)


def test_memory_and_time(study: Path) -> None:
    """Lines for people, the same as plain values, and nothing but the prepared data left behind."""
    lines, facts = check(study)
    labels = [line[:11].strip() for line in lines.splitlines()]
    assert "memory" in labels
    assert "time" in labels
    assert "rank 256" in lines
    assert "for each of 2 processes" in lines
    assert "price per hour" not in lines  # it ends nothing
    memory, time = facts["memory"], facts["time"]
    assert memory["hyperparameters"]["rank"] == 256
    assert memory["predicted"]["total"] < memory["available"]
    assert memory["processes"] == 2
    assert (memory["trainer"], memory["pack"]) == ("packed", 1)
    assert "\ntrainer " not in lines
    assert "losses in float32" in lines
    assert facts["fixed"]["validation_precision"] == "float32"
    assert memory["measured"] is None or memory["measured"]["rank"] == 73
    assert "a trial of rank 73, the space's mean" in lines
    assert (time["trials"], time["limited_by"]) == (5, "trials")
    assert time["price"] == pytest.approx(3600 * time["hours"])
    assert 3 * time["seconds_a_trial"] <= time["hours"] * 3600
    json.dumps(facts)
    assert sorted(path.name for path in study.parent.iterdir()) == ["rows.json", "study", "study.yaml"]
    assert [path.name for path in (study.parent / "study").iterdir()] == ["data"]


def test_the_time_of_other_machines_is_not_guessed_here(study: Path) -> None:
    lines, facts = check(study, overrides=("worker={name: slurm, processes: 2}",))
    assert "\ntime       not measured: with `name: slurm` trials run on other machines" in lines
    assert "--set 'worker={name: local}'" in lines
    assert facts["time"] is None
    assert "\ntime " in check(study, overrides=("worker={name: local}",))[0]  # what is said works


def test_packs_that_are_asked_for(study: Path) -> None:
    """A pack must fit whole, and is what is measured."""
    alone = check(study, measure=False)[1]["memory"]["predicted"]
    lines, facts = check(study, overrides=("worker.pack=3",))
    assert "3 adapters at rank 256" in lines
    assert "trials in packs of 3 on 2 processes" in lines
    assert (facts["memory"]["pack"], facts["time"]["pack"]) == (3, 3)
    assert facts["memory"]["predicted"]["optimizer"] == 3 * alone["optimizer"]
    assert facts["memory"]["predicted"]["base"] == alone["base"]


def test_losses_are_measured_in_the_bases_own_precision(study: Path, tiny_model_folder: Path) -> None:
    """Of which the record keeps that it was, whatever training computes in."""
    lines, facts = check(study, overrides=(f"model={{name: {tiny_model_folder}, dtype: bfloat16}}",), measure=False)
    assert "losses in bfloat16" in lines
    assert facts["fixed"]["validation_precision"] == "bfloat16"


def test_trials_that_cannot_be_packed(study: Path) -> None:
    """By the values of the space: known without the model, and counted as the other trainer takes memory."""
    lines, facts = check(study, overrides=("training.use_dora=true",), measure=False)
    assert "\ntrainer    transformers, since these trials cannot be packed: DoRA" in lines
    assert facts["memory"]["trainer"] == "transformers"
    same = check(study, overrides=("training.use_dora=true", "training.trainer=transformers"), measure=False)[1]
    assert same["memory"]["predicted"] == facts["memory"]["predicted"]


def test_a_model_that_cannot_be_packed(study: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Found where it is loaded: memory and time are those of the trainer that will run."""
    folder = tmp_path / "gpt-j"
    shutil.copytree(tiny_model_folder, folder)
    base = make(REFUSED["gpt-j"][0]())
    base.resize_token_embeddings(json.loads((folder / "config.json").read_text())["vocab_size"])
    base.save_pretrained(folder)
    before, _ = check(study, overrides=(f"model={folder}",), measure=False)
    assert "\ntrainer " not in before
    lines, facts = check(study, overrides=(f"model={folder}",))
    assert "\ntrainer    transformers, since these trials cannot be packed: the model ignores the name" in lines
    assert facts["memory"]["trainer"] == "transformers"
    assert facts["time"]["pack"] == 1


def test_modules_that_are_tried_alone(study: Path) -> None:
    """By `check`; a user who names two usually means both."""
    given = "space={target_modules: [q_proj, v_proj], step: {low: 0.001, high: 1, log: true}}"
    lines, _ = check(study, overrides=(given,), measure=False)
    assert "           warning: `space.target_modules: [q_proj, v_proj]` gives each trial q_proj alone or" in lines


def test_without_measuring(study: Path) -> None:
    """The prediction stays; no model is loaded, so that even one with damaged weights is none."""
    lines, facts = check(study, measure=False)
    assert "\nmemory     base " in lines
    assert "\ntime " not in lines
    assert facts["time"] is None
    assert facts["memory"]["measured"] is None


@pytest.mark.parametrize(
    ("keys", "warned"), [("epochs: 1", True), ("epochs: 1, warmup_ratio: 0", False), ("epochs: 2", False)]
)
def test_a_training_whose_one_step_is_warm_up(study: Path, keys: str, warned: bool) -> None:
    study.write_text(study.read_text().replace("batch_size: 4", f"batch_size: 40, {keys}"))
    lines, _ = check(study, measure=False)
    assert ("its one step is warm-up" in lines) == warned


def test_what_cannot_fit_is_a_fault(study: Path) -> None:
    """Before the model is loaded."""
    with pytest.raises(InputError, match=r"space: .*no rank fits|the largest rank that fits is") as caught:
        check(study, overrides=("space={rank: 1000000000, learning_rate: {low: 1e-5, high: 1e-3}}",))
    assert "write `rank: " in str(caught.value)


def test_a_model_that_cannot_be_had_is_one_message(tmp_path: Path) -> None:
    """And no line for each time that the hub was asked again."""
    path = tmp_path / "study.yaml"
    path.write_text("model: nobody/nothing\ndata: {sources: [{embedded: python-stdlib-describe}]}\n")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    command = meshtune("check", path)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **nowhere}, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "model.name: the model `nobody/nothing` is not in the local cache, and the Hugging Face hub cannot" in line


def test_a_program_has_no_such_lines(tmp_path: Path) -> None:
    """Its memory and time are its own affair."""
    path = command_study(tmp_path, trials=3)
    lines, facts = check(path, overrides=("budget.trials=1", "budget.hours=1"))
    assert "budget     1 trial, 1 hour\n" in f"{lines}\n"
    assert (facts["memory"], facts["time"]) == (None, None)
    assert "memory" not in lines


def test_it_says_who_waits_for_whom(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        "objective: {command: [echo, '{x}']}\nspace: {x: {low: 0, high: 1}}\nworker: {processes: 3}\n"
    )
    free, waits = "asynchronous: a process that is free gets its next trial at once; at most 3", "changes nothing: mads"
    for name, words in (("batch-gp", free), ("mads", waits)):
        text, _ = check(tmp_path / "study.yaml", overrides=(f"sampler={{name: {name}, asynchronous: true}}",))
        assert words in text
        assert words not in check(tmp_path / "study.yaml", overrides=(f"sampler={{name: {name}}}",))[0]


def test_the_command_line(study: Path) -> None:
    """`--json` is one object."""
    done = CliRunner().invoke(app, ["check", str(study), "--json", "--no-measure"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["memory"]["predicted"]["total"] > 0


def side(tokens: int) -> SideSummary:
    return SideSummary(rows=1, distinct=1, by_source=(1,), tokens=tokens, label_tokens=tokens)


DATA = Summary((), side(9000), side(1000), side(500), "union", "chat", 100)
SPEED = Pilot(training=100.0, validation=200.0, seconds_per_step=1.0, largest=Batch(1, 1, 1), peak=None)
A_TRIAL = 2 * (90 + 5)  # seconds, of two epochs
FINALS = (3 * 500 + 1000) / 200


@pytest.mark.parametrize(
    ("budget", "processes", "trials", "limited_by", "seconds"),
    [
        ({"trials": 7}, 1, 7, "trials", 7 * A_TRIAL),
        ({"trials": 7}, 4, 7, "trials", 2 * A_TRIAL),
        ({"trials": 7, "tokens": 36_000}, 1, 2, "tokens", 2 * A_TRIAL),
        ({"trials": 7, "tokens": 36_001}, 1, 3, "tokens", 3 * A_TRIAL),
        ({"trials": None, "hours": 10 * A_TRIAL / 3600}, 2, 20, "hours", 10 * A_TRIAL),
        ({"trials": 7, "hours": 100.0}, 1, 7, "trials", 7 * A_TRIAL),
    ],
)
def test_a_forecast(budget: dict[str, Any], processes: int, trials: int, limited_by: str, seconds: float) -> None:
    """By hand: 18,000 tokens a trial."""
    found = forecast(SPEED, DATA, 2, BudgetConfig(**budget), processes=processes, loading=10.0)
    assert found.seconds_a_trial == A_TRIAL
    assert (found.trials, found.limited_by, found.tokens) == (trials, limited_by, trials * 18_000)
    assert found.hours * 3600 == pytest.approx(10 + seconds + FINALS)
    assert found.price is None


def test_the_time_is_that_of_a_trial_as_the_search_draws_them() -> None:
    """Ranks 4 to 256 in powers of 2 have the mean 508 / 7."""
    start = presets.RECOMMENDED_BASELINE
    assert expected_point(presets.recommended(), start) == {**start, "rank": 73}
    own: dict[str, Any] = {"rank": (8, 64), "epochs": Interval(low=1, high=3), "lr_scheduler": ("linear", "cosine")}
    own["batch_size"] = Interval(low=4, high=16, log=True)
    found = expected_point(presets.build(own, lora=True), {**start, "lr_scheduler": "linear"})
    assert (found["rank"], found["epochs"], found["lr_scheduler"]) == (36, 2, "linear")
    assert 8 <= found["batch_size"] <= 10
    assert expected_point(presets.build({"rank": 8}, lora=True), {**start, "rank": 8})["rank"] == 8


def test_the_other_processes_are_there_while_it_is_measured_and_gone_after() -> None:
    with busy(2, 1):
        others = descendants(os.getpid())
        assert len(others) >= 2
    assert gone(others)


def test_who_has_no_gpu_is_shown_what_takes_minutes(tmp_path: Path) -> None:
    """The command it names writes a study that is read; the time is of its 76 training rows and 12 trials."""
    (tmp_path / "rows.jsonl").write_text("{}")
    path = init(tmp_path / "my", None, "some/model", tmp_path / "rows.jsonl")
    data = Summary((), replace(side(9000), rows=90), side(1000), side(500), "union", "chat", 100)
    first, written, time = sooner(file.read(path), SPEED, data, 2, 1.0)
    command = shlex.split(written)
    assert "no GPU is used" in first
    assert command[:3] == ["meshtune", "init", "NEW"]
    assert time == f"takes about {duration(6 * (76 + 16) + 94)} or less"
    made = CliRunner().invoke(app, ["init", str(tmp_path / "new"), *command[3:]])
    assert made.exit_code == 0
    config = file.read(tmp_path / "new" / "study.yaml")
    assert config.model is not None
    assert config.data is not None
    assert (config.model.name, config.data.rows) == ("some/model", 160)
    assert [Path(str(source.path)) for source in config.data.sources] == [tmp_path / "rows.jsonl"]
    slow = replace(SPEED, training=1.0)
    assert "with `--model embedded`" in sooner(file.read(path), slow, data, 2, 100.0)[2]
    assert sooner(file.read(path), SPEED, data, 2, 0.3) == []  # not much sooner than the study itself


def test_counters_that_stand_still_are_no_limit() -> None:
    with pytest.raises(InputError, match=r"budget\.kilowatt_hours: the counters of this machine stood still"):
        forecast(SPEED, DATA, 2, BudgetConfig(trials=None, kilowatt_hours=1.0), processes=1, loading=0.0, watts=0.0)


@pytest.mark.parametrize(("trials", "processes", "one_by_one"), [(7, 1, 7), (7, 2, 4), (9, 2, 8), (3, 4, 3)])
def test_a_forecast_of_packs(trials: int, processes: int, one_by_one: int) -> None:
    """Trials of the busiest process, in packs of 4: tokens a second are those of a whole pack."""
    speed = replace(SPEED, pack=4)
    found = forecast(speed, DATA, 2, BudgetConfig(trials=trials), processes=processes, loading=10.0)
    assert found.hours * 3600 == pytest.approx(10 + one_by_one * A_TRIAL + FINALS)


def test_the_price() -> None:
    found = forecast(SPEED, DATA, 2, BudgetConfig(trials=36, price_per_hour=2.5), processes=1, loading=0.0)
    assert found.price == pytest.approx(2.5 * found.hours)


def test_what_early_stopping_saves_at_most() -> None:
    """Half of those at a rung go on: of 103 trials three are whole, the others train 21.0 % in the mean."""
    early = EarlyStoppingConfig()
    spent = 0.1 + 0.05 / 2 + 0.15 / 4 + 0.2 / 8 + 0.2 / 16 + 0.3 / 32
    assert most_saved(early, 103) == pytest.approx(100 * (1 - spent) / 103)
    assert most_saved(early, 2) == 0
    assert most_saved(early.model_copy(update={"keep": 1.0}), 50) == pytest.approx(0)
    median = early.model_copy(update={"rule": "median", "keep": 0.1})
    assert most_saved(median, 103) == pytest.approx(most_saved(early, 103))
    assert most_saved(early.model_copy(update={"rule": "model"}), 103) == pytest.approx(100 * 0.9 / 103)
    validation = SideSummary(rows=20, distinct=20, by_source=(20,), tokens=400, label_tokens=100)
    tokens = rung_tokens(early, validation)
    assert (tokens, rung_tokens(early.model_copy(update={"rule": "none"}), validation)) == (2000, 0)
    (text,) = early_stopping_lines(early, 103, tokens, 0.04)
    assert "at most 77 % of these tokens (36 to 61 % in replays of real curves)" in text
    assert "2,000 tokens of validation, 4 % of a trial's time" in text
    (of_model,) = early_stopping_lines(EarlyStoppingConfig(rule="model"), 103, tokens, 0.04)
    assert "(18 to 45 % in replays of real curves)" in of_model
    text, warning = early_stopping_lines(median, 103, tokens, 0.11)
    assert "replays" not in text
    assert warning.startswith("warning: that may be more than it saves: lower `early_stopping.rows`")


def test_a_forecast_of_what_comes_at_the_end() -> None:
    after = AfterSearch(promotions=3, share=0.5, replicates=5)
    found = forecast(SPEED, DATA, 2, BudgetConfig(trials=7), processes=2, loading=10.0, after=after)
    assert found.afterwards == 2 * A_TRIAL * 0.5 + 3 * A_TRIAL
    assert found.hours * 3600 == pytest.approx(10 + 4 * A_TRIAL + found.afterwards + FINALS)
    assert found.tokens == 7 * 18_000 + 3 * 9_000
    line = time_line(SPEED, found, BudgetConfig(trials=7), 2, after)
    assert "for 3 promotions and 5 replicates at the end" in line


def test_a_forecast_of_energy() -> None:
    """200 W for 190 seconds a trial: 38 kJ."""
    budget = BudgetConfig(trials=None, kilowatt_hours=0.1)
    found = forecast(SPEED, DATA, 2, budget, processes=1, loading=0.0, watts=200.0)
    assert (found.limited_by, found.trials) == ("kilowatt_hours", 10)
    assert found.kilowatt_hours == pytest.approx(200 * found.hours / 1000)
    assert "kWh" in time_line(SPEED, found, budget, 1)


def test_what_frozen_trials_keep_on_the_disk(study: Path) -> None:
    """At the space's largest rank; and where that is too much."""
    freezing = ("early_stopping={freeze: true, rungs: [0.2]}", "budget.trials=8")
    text, facts = check(study, overrides=freezing, measure=False)
    disk = facts["disk"]
    assert (disk["rank"], disk["limit"], disk["kept"]) == (256, None, 5)
    assert disk["free"] > 0
    weights = facts["memory"]["predicted"]["optimizer"] / 12 / facts["memory"]["pack"]
    assert disk["state"] == 12 * weights
    assert "disk       a frozen trial of rank 256 keeps about" in text
    assert "at most 5 are kept" in text
    later = check(study, overrides=(*freezing, "early_stopping.rungs=[0.2, 0.6]"), measure=False)[1]["disk"]
    assert later["state"] == 16 * weights, "after an epoch of two the best weights are kept too"
    limited = check(study, overrides=(*freezing, f"early_stopping.disk={2 * disk['state']}"), measure=False)
    assert limited[1]["disk"]["kept"] == 2
    assert "hold 2 of these, and what promises least is dropped first" in limited[0]
    none = check(study, overrides=(*freezing, "early_stopping.disk=1 kB"), measure=False)[0]
    assert "warning: not one of them fits into the limit" in none
    assert check(study, measure=False)[1]["disk"] is None
    own = ("training.trainer={import: 'tests.study.test_check:train'}", *freezing, "early_stopping.disk=1 GB")
    with pytest.raises(InputError, match=r"early_stopping\.disk: how large the states of a trainer of one's own are"):
        check(study, overrides=own, measure=False)


def train(*, rungs: object = ()) -> None:
    """A trainer of one's own, which is not called."""


def test_a_disk_that_has_less_space_than_frozen_trials_may_take() -> None:
    facts = {"rank": 64, "state": 2 * 10**9, "limit": 20 * 10**9, "kept": 10}
    assert len(list(disk_lines(facts, 21 * 10**9))) == 1
    _, warning = disk_lines(facts, 10**9)
    assert warning == "warning: the study's disk has 1 GB free, and they may take 20 GB"
    assert len(list(disk_lines({**facts, "limit": None, "kept": None}, 0))) == 1
    assert "they may take 20 GB" in list(disk_lines({**facts, "limit": None}, 10**9))[1]
