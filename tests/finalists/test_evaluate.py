"""`evaluate` as a user meets it: the tables of a study, a kill on the way, and what is refused."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import meshtune
from meshtune.cli.commands import app
from meshtune.cli.score_tables import show
from meshtune.config.sections import ModelConfig
from meshtune.errors import InputError, StorageError, StudyBusy
from meshtune.finalists.evaluate import Evaluated, as_json, evaluate
from meshtune.finalists.replicates import _scored, _settings
from meshtune.finalists.stored_scores import of_study
from meshtune.objectives import measurements
from meshtune.objectives.measurements import MeasurementSpec
from meshtune.plan.locate import locate
from meshtune.report.write import report
from meshtune.selection.candidates import Column, Scored, ScoreTable
from meshtune.system.lease import lease
from tests.evaluation.made import make_all
from tests.finalists.made import finished_study

ASKED = {"best": 1, "worst": 2, "limit": 4, "benchmarks": ("mmlu", "bbh", "drop")}


@pytest.fixture(scope="module")
def finished(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the tiny model: four trials, of which the best and the baseline keep their adapters."""
    folder = tmp_path_factory.mktemp("evaluate")
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
        "training: {epochs: 1, batch_size: 8, precision: float32, keep_adapters: 1}\n"
        "sampler: random\n"
        "budget: {trials: 4}\n"
        "generation: {rows: 0}\n"
    )
    return finished_study(folder, tiny_model_folder, settings, rows=40)


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "mine" / "study"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_all(tmp_path / "data")


def given(data: Path, **changed: Any) -> dict[str, Any]:
    return {**ASKED, "data": str(data), **changed}


def scores(done: Evaluated) -> dict[tuple[str, str], float]:
    """All scores, by candidate and column."""
    return {(row.name, name): score for row in done.tables[0].rows for name, score in row.scores.items()}


def test_scores_of_a_study(study: Path, data: Path) -> None:
    said: list[Any] = []
    done = evaluate([study], given=given(data), report=said.append)
    (table,) = done.tables
    names = [row.name for row in table.rows]
    assert names[-1] == "untuned"
    assert {1, 4} <= {row.rank for row in table.ranked}
    assert sum(row.baseline for row in table.rows) == 1
    assert [column.name for column in table.columns] == [
        *("mmlu", "mmlu:likelihood", "bbh", "bbh:likelihood", "drop", "drop:F1", "drop:likelihood"),
    ]
    assert all("4 of them, chosen with seed 0" in column.measured for column in table.verdicts)
    assert any("is trained again" in event for event in said if isinstance(event, str))  # the worst one's adapter
    assert done.folder is not None
    assert sorted(path.name for path in done.folder.glob("*.*")) == [
        *("candidates.csv", "candidates.md", "candidates.tex", "scores.json"),
        *("statistics.csv", "statistics.md", "statistics.tex"),
    ]
    page = Path(report([study])["page"]).read_text()
    assert page.count("Scores of the candidates of study, in points") == 1
    assert page.count("Statistics of the best candidates, in points") == 1
    stored = {path: path.read_bytes() for path in done.folder.rglob("*.jsonl")}
    assert len(stored) == 3 * len(table.rows)
    again = evaluate([study], given=given(data), report=said.append)
    assert again.tables == done.tables
    assert {path: path.read_bytes() for path in done.folder.rglob("*.jsonl")} == stored
    assert said.count("loading the model") == 1  # nothing was left to ask


def test_a_trial_that_is_trained_again_scores_the_same(study: Path, data: Path) -> None:
    first = evaluate([study], given=given(data))
    kept = next(row for row in first.tables[0].rows if row.rank == 1)
    shutil.rmtree(study / "adapters" / str(kept.trial))
    shutil.rmtree(study / "evaluation")
    again = evaluate([study], given=given(data))
    assert (study / "evaluation" / "adapters" / f"trial-{kept.trial}" / "adapter_config.json").is_file()
    # What is trained alone, and not in a pack, differs by rounding.
    assert scores(again) == pytest.approx(scores(first), abs=0.01)


def test_an_adapter_of_an_earlier_study_is_not_taken_for_a_trial(study: Path, data: Path) -> None:
    """It lies where the trial's is trained again: here one of other data."""
    few = given(data, benchmarks=("mmlu",), best=0, worst=2)
    evaluate([study], given=few)
    again = next((study / "evaluation" / "adapters").glob("trial-*"))
    facts = json.loads((again / "training.json").read_text())
    said: list[Any] = []
    (again / "training.json").write_text(json.dumps({**facts, "data": {"fingerprint": "other"}}))
    for _ in range(2):
        evaluate([study], given=few, report=said.append)
    assert sum("is trained again" in event for event in said if isinstance(event, str)) == 1
    assert json.loads((again / "training.json").read_text())["data"] == facts["data"]


def test_the_section_is_that_of_the_yaml_that_is_named(finished: Path, study: Path, data: Path) -> None:
    """Written after the search too; the study's own copy has what it was searched with."""
    source = study.parent / "study.yaml"
    text = (finished.parent / "study.yaml").read_text()
    source.write_text(text + f"evaluation: {{data: {data}, limit: 4, best: 1, benchmarks: [mmlu]}}\n")
    shutil.copy(finished.parent / "rows.jsonl", study.parent)
    done = evaluate([source])
    assert [column.name for column in done.tables[0].verdicts] == ["mmlu"]
    assert len(done.tables[0].rows) == 3
    assert "best: 1" not in (study / "study.yaml").read_text()


def test_a_folder_that_cannot_be_written_is_said(study: Path, data: Path) -> None:
    (study / "evaluation").write_text("a file")
    with pytest.raises(StorageError, match="evaluation cannot be written: "):
        evaluate([study], given=given(data))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(study: Path, data: Path, tmp_path: Path) -> None:
    """On all four benchmarks, to the scores of a run that nothing ended."""
    four = ("mmlu", "bbh", "drop", "humaneval")
    whole = evaluate([study], given=given(data, benchmarks=four))
    other = Path(shutil.copytree(study, tmp_path / "other" / "study"))
    shutil.rmtree(other / "evaluation" / "benchmarks")
    command = [sys.executable, "-m", "meshtune.cli", "evaluate", str(other), "--data", str(data), "--limit", "4"]
    command += ["--best", "1", "--worst", "2", "--benchmarks", ",".join(four)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if "answers" in line:  # the first file is whole
            running.send_signal(signal.SIGKILL)
            break
    running.wait()
    running.stderr.close()
    stored = list((other / "evaluation" / "benchmarks").rglob("*.jsonl"))
    assert 0 < len(stored) < 4 * len(whole.tables[0].rows)
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout)
    rows = told["studies"][0]["candidates"]
    shown = {(row["name"], name): score for row in rows for name, score in row["scores"].items()}
    assert shown == pytest.approx(scores(whole), abs=0.01)
    assert {entry["benchmark"] for entry in told["statistics"]} == set(four)


def test_code_is_run_in_the_sandbox(study: Path, data: Path) -> None:
    asked = given(data, benchmarks=("humaneval",), best=0, worst=0, temperature=0.8, samples=2, pass_at=(1, 2))
    done = evaluate([study], given=asked)
    assert [column.name for column in done.tables[0].columns] == [
        *("humaneval", "humaneval:pass@2", "humaneval:likelihood"),
    ]
    assert done.tables[0].columns[0].title == "HumanEval pass@1"
    lines = [
        json.loads(line)
        for path in (study / "evaluation").rglob("untuned.jsonl")
        for line in path.read_text().splitlines()
    ][1:]
    assert len(lines) == 8
    assert all(not line["correct"] and line["reason"] for line in lines)


def test_named_trials_and_guided_items(study: Path, data: Path, tmp_path: Path) -> None:
    items = [{"benchmark": "mmlu", "item": f"logic/{n}"} for n in range(5)]
    (tmp_path / "guided.jsonl").write_text("\n".join(map(json.dumps, items)))
    asked = given(data, benchmarks=("mmlu",), guided=str(tmp_path / "guided.jsonl"), limit=None)
    done = evaluate([study], given=asked, trials=[0])
    assert "5 left out that guided the search" in done.tables[0].columns[0].measured
    assert done.tables[0].columns[0].items == 7
    assert [row.name for row in done.tables[0].rows] == ["trial 0", "untuned"]


def test_what_guided_a_study_scores_none(study: Path, data: Path, tmp_path: Path) -> None:
    """Also in another one that is compared with it."""
    other = Path(shutil.copytree(study, tmp_path / "other" / "study"))
    guiding = MeasurementSpec(quantities=("mmlu.gold",), benchmarks=str(data), limit=4)
    measurements.choose(guiding, ModelConfig(name="none"), study)
    asked = given(data, benchmarks=("mmlu", "bbh"), limit=None, best=0, worst=0)
    done = evaluate([study, other], given=asked)
    for table in done.tables:
        mmlu, bbh = table.verdicts
        assert "4 left out that guided the search" in mmlu.measured
        assert mmlu.items == 8
        assert "left out" not in bbh.measured
    stored = (study / "evaluation").rglob("mmlu-*/untuned.jsonl")
    answered = {line["item"] for path in stored for line in map(json.loads, path.read_text().splitlines()[1:])}
    assert len(answered) == 8
    assert not answered & measurements.items(study)["mmlu"]
    evidence = of_study(locate(other), None, ())  # which alone has no items that guided it
    assert evidence.guided == {"mmlu": sorted(measurements.items(study)["mmlu"])}
    nobody = _scored(locate(other), evidence, _settings(evidence), {}, False, lambda _: None)
    assert nobody == {}  # and is not refused
    everything = [
        {"benchmark": "mmlu", "item": f"{subject}/{n}"} for subject in ("logic", "simple_sums") for n in range(6)
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, everything)))
    with pytest.raises(InputError, match="all items of mmlu guided the search"):
        evaluate([other], given={**asked, "guided": str(tmp_path / "all.jsonl")})


def test_what_does_not_fit_is_said_in_every_table(study: Path, data: Path, tmp_path: Path) -> None:
    path = data / "bbh" / "navigate.json"
    task = json.loads(path.read_text())
    task["examples"][5]["input"] = "long " * 150
    path.write_text(json.dumps(task))
    said: list[Any] = []
    (tmp_path / "guided.jsonl").write_text('{"benchmark": "bbh", "item": "navigate/99"}\n')
    asked = given(data, benchmarks=("bbh", "bbh"), limit=None, best=0, worst=0, guided=str(tmp_path / "guided.jsonl"))
    done = evaluate([study], given=asked, report=said.append, out=tmp_path / "tables")
    assert "evaluation.guided names 1 items that bbh has not, such as navigate/99" in said
    assert [column.name for column in done.tables[0].columns] == ["bbh", "bbh:likelihood"]
    note = "bbh: 1 of 10 prompts do not fit the model even without shots, and count as wrong."
    assert as_json(done)["notes"] == [note]
    written = study / "evaluation" / "benchmarks" / "instruct-eval"
    for text in (written / "candidates.md", tmp_path / "tables" / "candidates.tex", Path(report([study])["page"])):
        assert note in text.read_text()
    (tmp_path / "guided.jsonl").write_text('{"benchmark": "bhb", "item": "navigate/5"}\n')
    with pytest.raises(InputError, match="Did you mean `bbh`"):
        evaluate([study], given=asked)


def test_files_of_scores(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.csv").write_text("rank,mmlu\n1,45\n2,43\nitems,100\n")
    files = [tmp_path / place / "mine.csv" for place in ("one", "two")]
    done = evaluate([], scores=files, out=tmp_path / "out", given={"best": 2})
    assert [table.label for table in done.tables] == list(map(str, files))
    assert len(list((tmp_path / "out").glob("candidates-*.csv"))) == 2
    assert "44.00" in (tmp_path / "out" / "statistics.md").read_text()
    shown = CliRunner().invoke(app, ["evaluate", "--scores", str(files[0])])
    assert "45.00 ± 4.97" in shown.stdout
    options = ["--limit", "3", "--trials", "1", "--race", "--unsafe-no-sandbox"]
    refused = CliRunner().invoke(app, ["evaluate", "--scores", str(files[0]), *options])
    assert str(refused.exception).startswith("--limit, --trials, --race, --unsafe-no-sandbox: of a study")


def test_a_wide_table_is_shown_in_parts() -> None:
    names = [f"task_{number}" for number in range(8)]
    row = Scored("trial 1", 1, dict.fromkeys(names, 12.5), dict.fromkeys(names, 1.25))
    table = ScoreTable("study", tuple(Column(name, name) for name in names), (row,))
    text = io.StringIO()
    show([table], 1, Console(file=text, width=60))
    lines = text.getvalue().split("\n")
    assert sum("trial 1" in line for line in lines) > 2
    assert text.getvalue().count("12.50 ± 1.25") == 8  # none is broken


def test_two_studies_are_compared_only_on_the_same_items(study: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(study, tmp_path / "other" / "study"))
    few = given(data, benchmarks=("mmlu",), best=1, worst=0)
    done = evaluate([study, other], given=few)
    assert [table.label for table in done.tables] == [str(study), str(other)]
    before, section, after = (other / "study.yaml").read_text().partition("\nevaluation:\n")
    (other / "study.yaml").write_text(before + section + after.replace("seed: 0", "seed: 1", 1))
    with pytest.raises(InputError, match="scored in different ways on mmlu"):
        evaluate([study, other], given=few)


def test_in_python(study: Path, data: Path) -> None:
    """The scores of the command, as a frame."""
    found = meshtune.load(study)
    assert list(found.scores.columns) == ["name", "rank", "trial", "loss", "baseline", "pareto"]
    assert found.scores.empty
    frame = found.evaluate(**{**ASKED, "data": data}, progress=False)
    frame = frame.set_index("name")
    done = evaluate([study], given=given(data))
    assert {(name, column): frame.loc[name, column] for name, column in scores(done)} == pytest.approx(scores(done))
    assert frame["baseline"].sum() == 1
    assert frame.loc["untuned", ["rank", "trial", "loss"]].isna().all()
    assert "mmlu:se" in frame.columns
    assert found.scores.attrs["protocol"] == "instruct-eval"
    assert "12 items" in found.scores.attrs["sets"]["mmlu"]
    with pytest.raises(InputError, match="bset"):
        found.evaluate(bset=3, progress=False)


def test_refused(study: Path, data: Path) -> None:
    with pytest.raises(InputError, match="Did you mean `mmlu`"):
        evaluate([study], given=given(data, benchmarks=("mmlx",)))
    with pytest.raises(InputError, match="no such trial"):
        evaluate([study], given=given(data), trials=[9])
    with pytest.raises(InputError, match="pass@10 needs at least 10"):
        evaluate([study], given=given(data, temperature=0.8, samples=2, pass_at=(10,)))
    with pytest.raises(InputError, match="greedy answers are all the same"):
        evaluate([study], given=given(data, pass_at=(1,)))
    with pytest.raises(InputError, match="are of HumanEval"):
        evaluate([study], given=given(data, samples=2, temperature=0.8))
    with pytest.raises(InputError, match="name a study"):
        evaluate([])
    with lease(study / "evaluation"), pytest.raises(StudyBusy, match="evaluates this study"):
        evaluate([study], given=given(data))
    runner = CliRunner(env={"PATH": os.environ["PATH"]})
    assert isinstance(runner.invoke(app, ["evaluate", str(study), "--trials", "x"]).exception, InputError)
    both = ["evaluate", str(study), "--paper-decoding", "--temperature", "1"]
    assert isinstance(runner.invoke(app, both).exception, InputError)


def test_ones_own_metrics_stand_beside(study: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text("def score(row, answer):\n    return len(answer) / 10\n")
    path = study / "study.yaml"
    text = path.read_text()
    assert "\nmetrics: {}\n" in text
    path.write_text(text.replace("\nmetrics: {}\n", f"\nmetrics: {{length: {{file: {tmp_path / 'metrics.py'}}}}}\n"))
    path.write_text(path.read_text().replace("rows: 0", "rows: 3"))
    done = evaluate([study], given=given(data, benchmarks=("mmlu",), best=1, worst=0))
    assert [column.name for column in done.tables[0].columns][-1] == "metrics:length"
    assert all("metrics:length" in row.scores for row in done.tables[0].rows)
    assert {column.name for column in done.tables[0].verdicts} == {"mmlu"}


def test_tasks_of_the_harness(study: Path, tmp_path: Path) -> None:
    from tests.evaluation.test_harness import write_tasks

    folder = write_tasks(tmp_path / "tasks")
    asked = {"protocol": "harness", "tasks": str(folder), "benchmarks": ("own_choice",), "best": 1, "worst": 0}
    done = evaluate([study], given=asked)
    (table,) = done.tables
    assert table.protocol == "harness"
    assert table.columns[0].chance == 25
    assert "7 items asked" in table.columns[0].measured
    with pytest.raises(InputError, match="say how they are decoded"):
        evaluate([study], given={**asked, "temperature": 0.5})
