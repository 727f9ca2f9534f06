"""Pipelines: faults of all steps at once, kills on the way, steps that are done or must be done again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import typer

from meshtune.cli.commands import app
from meshtune.cli.run import usage as wrong_in
from meshtune.config.file import named_files, parse
from meshtune.errors import InputError, StorageError
from meshtune.pipeline.file import read
from meshtune.pipeline.run import StepFailed, run
from tests.export.test_settings import tiny_study
from tests.kill import command_study, meshtune

usage = partial(wrong_in, typer.main.get_command(app))

STEPS = """
steps:
  - {name: first, tune: study.yaml, folder: "{out}/first"}
  - {name: second, tune: study.yaml, folder: "{out}/second", set: {warm_start: "{out}/first", seed: 2}}
  - {name: page, report: ["{out}/first", "{out}/second"], out: "{out}/page.html"}
scales:
  small: {first: {trials: 3}, second: {trials: 2, set: {seed: 3}}}
"""


def pipeline(folder: Path, text: str = STEPS, trials: int = 5) -> Path:
    command_study(folder, sampler="tpe", trials=trials)
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def finished(out: Path) -> dict[str, bool]:
    marks = sorted((out / "steps").glob("*.json"))
    return {path.stem: json.loads(path.read_text()).get("ended", False) for path in marks}


def test_a_scale_overrides_keys_and_mappings_are_joined(tmp_path: Path) -> None:
    first, second, _ = read(pipeline(tmp_path), scale="small", out=tmp_path / "o").steps
    assert first.words == ["tune", "study.yaml", "--folder", f"{tmp_path}/o/first", "--trials", "3"]
    assert second.words[4:] == ["--set", f"warm_start={tmp_path}/o/first", "--set", "seed=3", "--trials", "2"]


def test_the_pipeline_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    assert [step.name for step in read(path).steps] == ["cheap", "full", "scores", "choice", "page"]
    small = read(path, scale="small").steps
    assert [step.name for step in small] == ["cheap", "full", "scores", "page"]
    assert not [wrong for step in small if (wrong := usage(step.words))]


def test_what_is_left_out_is_not_a_step(tmp_path: Path) -> None:
    path = pipeline(tmp_path, "steps: [{name: a, tune: study.yaml, skip: true}, {name: b, tune: study.yaml}]\n"
                    "scales: {all: {a: {skip: false}}}\n")  # fmt: skip
    assert [step.name for step in read(path).steps] == ["b"]
    assert [step.name for step in read(path, scale="all").steps] == ["a", "b"]


def test_faults_of_all_steps_are_said_before_anything_runs(tmp_path: Path) -> None:
    text = (
        "steps:\n"
        "  - {name: a, tune: study.yaml, folder: '{out}/a', set: {budgit.trials: 2}}\n"
        "  - {name: b, evaluate: '{out}/a', worts: 3}\n"
        "  - {name: scores, evaluate: '{out}/a', data: benchmarks}\n"
        "  - {name: choice, select: '{out}/a'}\n"
        "  - {name: other, select: elsewhere}\n"
        "  - {name: early, report: '{out}/b', out: '{out}/page.html'}\n"
        "  - {name: later, tune: study.yaml, folder: '{out}/b'}\n"
        "  - {name: model, train: ['{out}/b', model]}\n"
        "  - {name: merged, export: [model, '{out}/merged'], merge: maybe}\n"
        "  - {name: c, python: missing.py}\n"
        "  - {name: made, select: by_the_script}\n"
    )
    made = read(pipeline(tmp_path, text), out=tmp_path / "out")
    with pytest.raises(InputError) as refused:
        run(made, usage=usage)
    said = str(refused.value)
    assert "budgit" in said
    assert "--worts" in said
    assert "missing.py" in said
    assert "data benchmarks: there is no such file or folder" in said
    assert "select elsewhere: there is no such file or folder, and no step before it makes it" in said
    assert "out/b: there is no such file or folder" in said  # a later step makes it
    assert "merged: Option '--merge' does not take a value" in said
    assert "train model" not in said  # that is what the step writes
    assert said.count("no step before it makes it") == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("steps: []\n", "a list of steps"),
        ("steps: [{name: a}]\n", "none is given"),
        ("steps: [{name: a, tune: x, report: x}]\n", "given: tune, report"),
        ("steps: [{name: a, tune: x}, {name: a, tune: x}]\n", "two steps have the name a"),
        ("steps: [{name: a, tune: x}]\nstpes: 1\n", "Did you mean `steps`?"),
        ("steps: [{name: a, tune: x}]\nscales: {small: {b: {trials: 1}}}\n", "there is no such step"),
        ("steps: [{name: a, tune: x}]\nscales: {small: {a: 3}}\n", "scales.small.a: changes of a step are a mapping"),
        ("steps: [{name: a, tune: x, skip: 'yes'}]\n", "skip is true or false, not yes"),
        ("steps: [{name: a, tune: x, folder: '{outt}/a'}]\n", "{outt} stands for nothing; {out} is the folder"),
        ("steps: [{name: a}]\nscales: {small: {b: {trials: 1}}}\n", "none is given"),
        ("steps: [{name: [a], tune: x}, {name: [a], tune: x}]\n", "a step needs a name of letters"),
    ],
)
def test_faults_of_the_form(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read(path, scale="small" if "small" in text else None)
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("folder: a, set: [sampler.block_size=x, seed=2]", "sampler.block_size"),  # options that are repeated
        ("folder: a, set: sampler.block_size=x", "sampler.block_size"),
        (f"folder: a, set: {{description: {'long ' * 60}}}", "description: unknown key"),  # no file has such a name
        ("folder: {a: b}, trials: x", "'--trials'"),
        ("folder: a}, {name: b, evaluate: a, data: [there, here]", "data here: there is no such file"),
    ],
)
def test_values_of_any_shape_are_read_or_refused(tmp_path: Path, step: str, fault: str) -> None:
    path = pipeline(tmp_path, f"steps: [{{name: a, tune: study.yaml, {step}}}]\n")
    with pytest.raises(InputError, match=re.escape(fault)):
        run(read(path), usage=usage)


@pytest.mark.parametrize("taken", ["lock", "a.json"])
def test_results_that_cannot_be_written_are_one_message(tmp_path: Path, taken: str) -> None:
    """As on a disk that is read-only or full."""
    (tmp_path / "script.py").touch()
    made = read(pipeline(tmp_path, "steps: [{name: a, python: script.py}]\n"), out=tmp_path / "out")
    (tmp_path / "out" / "steps" / taken / "in the way").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        run(made, usage=usage)


def test_a_dry_run_says_costs_and_writes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    made = read(pipeline(tmp_path), out=tmp_path / "out")
    assert run(made, usage=usage, dry=True, say=said.append) == []
    assert "5 trials" in said[0]
    assert not (tmp_path / "out").exists()


def test_a_pipeline_that_is_not_there_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file; a pipeline is a YAML file"):
        read(tmp_path / "pipline.yaml")


def test_a_study_in_place_of_a_pipeline_is_pointed_to_its_own_command(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    with pytest.raises(InputError, match=f"is a study, and no pipeline, .*: `meshtune tune {path}` runs it") as error:
        read(path)
    assert len(error.value.faults) == 1
    with pytest.raises(InputError, match=f"is a folder; a pipeline is a YAML file .*; `meshtune tune {tmp_path}` runs"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is a folder; a pipeline is a YAML file with a list of steps$"):
        read(tmp_path / "empty")


def test_a_dry_run_from_a_step_is_refused_as_the_run_would_be(tmp_path: Path) -> None:
    made = read(pipeline(tmp_path), out=tmp_path / "out")
    with pytest.raises(InputError, match="the step first before it is not done"):
        run(made, usage=usage, start="page", dry=True)


@pytest.mark.parametrize("told", ["the run alone", "its group"])
def test_an_interrupted_run_begins_no_further_step(tmp_path: Path, told: str) -> None:
    """A script that is told too ends at once; one that is not ends well."""
    (tmp_path / "script.py").write_text(
        "import sys, time\nfrom pathlib import Path\nPath(sys.argv[1] + '.begun').touch()\n"
        "while not Path('go').exists():\n    time.sleep(0.02)\n"
    )
    path = tmp_path / "pipeline.yaml"
    path.write_text("steps: [{name: a, python: [script.py, a]}, {name: b, python: [script.py, b]}]\n")
    command, out = meshtune("run", path), tmp_path / "out" / "full"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    while not (tmp_path / "a.begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    (os.kill if told == "the run alone" else os.killpg)(process.pid, signal.SIGINT)
    if told == "the run alone":
        (tmp_path / "go").touch()
    said = process.communicate()[1].decode()
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "mend it" not in said
    assert finished(out) == {"a": told == "the run alone"}
    (tmp_path / "go").touch()
    subprocess.run(command, check=True, capture_output=True)
    assert finished(out) == {"a": True, "b": True}


def test_a_second_run_is_refused_at_once_and_one_after_a_kill_says_that_it_waits(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import time\nfrom pathlib import Path\nPath('begun').touch()\n"
        "while not Path('go').exists():\n    time.sleep(0.02)\n"
        "with Path('ends').open('a') as file:\n    file.write('end')\n"
    )
    path = pipeline(tmp_path, "steps: [{name: a, python: script.py}]\n")
    first = subprocess.Popen(meshtune("run", path), stderr=subprocess.DEVNULL)
    while not (tmp_path / "begun").exists():
        assert first.poll() is None
        time.sleep(0.02)
    said = list[str]()
    with pytest.raises(StorageError, match="another run of this pipeline is at work; wait for it or end it"):
        run(read(path), usage=usage, say=said.append)
    assert said == []  # it has not waited
    first.kill()
    first.wait()

    def say(text: str) -> None:
        said.append(text)
        (tmp_path / "go").touch()

    assert run(read(path), usage=usage, say=say) == ["a"]
    assert said[0] == "waiting for the step of a killed run to end .."
    assert (tmp_path / "ends").read_text() == "endend"  # one after the other


def test_a_preference_study_is_never_replaced(tmp_path: Path) -> None:
    for name, text in (("q", "text"), ("a", "red"), ("b", "blue")):
        lines = [{"question_id": n, "text": f"{text} {n}", "model_id": name} for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = read(
        pipeline(
            tmp_path,
            "steps: [{name: people, prefer create: [], questions: q.jsonl, answers: [a.jsonl, b.jsonl], "
            "out: '{out}/people'}]\n",
        )
    )
    assert run(made, usage=usage) == ["people"]
    assert run(made, usage=usage, start="people") == []  # people may have voted in it
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write("\n")
    for _ in range(2):  # it is not taken for the new one afterwards
        with pytest.raises(InputError, match="people: a preference study of other models or questions stands there"):
            run(made, usage=usage)


@pytest.mark.slow
def test_a_model_is_exported_again_and_what_was_before_is_kept(tmp_path: Path, tiny_model_folder: Path) -> None:
    study = tiny_study(tiny_model_folder, tmp_path, learning_rate="{low: 1e-3, high: 1e-2}", baseline="common")
    text = f"steps: [{{name: model, export: [{study}, settings], config: axolotl}}]\n"
    path, folder = pipeline(tmp_path / "run", text), tmp_path / "run" / "settings"
    assert run(read(path), usage=usage) == ["model"]
    assert run(read(path), usage=usage) == []
    shutil.rmtree(folder)
    assert run(read(path), usage=usage) == ["model"]  # what it wrote has gone
    (folder / "mine").touch()
    path.write_text(text.replace("axolotl", "trl"))
    assert run(read(path), usage=usage) == ["model"]
    assert (tmp_path / "run" / "settings.before" / "mine").is_file()
    assert not (folder / "mine").exists()
    assert run(read(path), usage=usage, start="model") == ["model"]
    (tmp_path / "run" / "other").mkdir()
    (tmp_path / "run" / "other" / "mine").touch()
    path.write_text(text.replace("settings", "other"))
    with pytest.raises(InputError, match="other: something that this step is not known to have made stands there"):
        run(read(path), usage=usage)


@pytest.mark.slow
def test_killed_twice_it_goes_on_and_then_knows_what_is_done(tmp_path: Path) -> None:
    path, out = pipeline(tmp_path), tmp_path / "out"
    command = meshtune("run", path, "--out", out)
    for waits_for in ("first", "second"):  # killed within each search
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not (out / "steps" / f"{waits_for}.json").exists() or not (out / waits_for / "study.db").exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    made = read(path, out=out)
    run(made, usage=usage)
    assert finished(out) == {"first": True, "second": True, "page": True}
    assert (out / "page.html").is_file()
    for name in ("first", "second"):
        status = subprocess.run(meshtune("status", out / name, "--json"), capture_output=True, text=True, check=True)
        assert json.loads(status.stdout)["trials"]["proposed"] == 5
    assert run(made, usage=usage) == []  # all of it is done
    (out / "page.html").unlink()
    assert run(made, usage=usage) == ["page"]  # what it wrote has gone
    assert run(made, usage=usage, start="page") == ["page"]
    path.write_text(STEPS.replace("page.html", "other.html"))
    assert run(read(path, out=out), usage=usage) == ["page"]  # its arguments have changed


def test_a_search_is_done_again_where_a_file_that_its_study_names_has_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from optuna.samplers import RandomSampler as Mine\n")
    path, out = (
        pipeline(tmp_path, "steps: [{name: search, tune: study.yaml, folder: '{out}/a'}]\n", trials=2),
        tmp_path / "o",
    )
    study = (tmp_path / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(study.replace("name: tpe", "import: mine.py:Mine"))
    made = read(path, out=out)
    assert run(made, usage=usage) == ["search"]
    assert run(made, usage=usage) == []
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# otherwise\n")
    assert run(made, usage=usage) == ["search"]


def test_the_data_are_among_the_files_that_a_study_names(tmp_path: Path) -> None:
    sources = [{"path": "rows.jsonl"}, {"embedded": "python-stdlib-describe"}]
    values = {"model": "embedded", "data": {"sources": sources, "validation": {"path": "held.jsonl"}}}
    named = named_files(parse({**values, "sampler": {"import": "mine.py:Mine"}}, tmp_path))
    assert {tmp_path / name for name in ("rows.jsonl", "held.jsonl", "mine.py")} == set(named)


def test_a_step_that_fails_ends_the_run_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import sys\nsys.exit(7)\n")
    path = pipeline(tmp_path, "steps: [{name: a, python: fails.py}, {name: b, tune: study.yaml}]\n")
    made = read(path, out=tmp_path / "out")
    with pytest.raises(StepFailed) as failed:
        run(made, usage=usage)
    assert failed.value.exit_code == 7
    assert finished(tmp_path / "out") == {"a": False}


def test_the_processor_time_of_a_step_is_that_of_all_its_starts_and_their_children(tmp_path: Path) -> None:
    (tmp_path / "burns.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "while time.process_time() < 0.4:\n    pass\n"
        "if not sys.argv[1:]:\n"
        "    subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
        "    began, again = pathlib.Path('began'), pathlib.Path('began').exists()\n"
        "    began.touch()\n"
        "    sys.exit(0 if again else 7)\n"
    )
    out = tmp_path / "out"
    made = read(pipeline(tmp_path, "steps: [{name: a, python: burns.py}]\n"), out=out)
    with pytest.raises(StepFailed):
        run(made, usage=usage)
    assert processor_seconds(out / "steps" / "a.json") >= 0.8
    run(made, usage=usage)
    assert finished(out) == {"a": True}
    assert processor_seconds(out / "steps" / "a.json") >= 1.6


def test_a_step_whose_run_is_killed_notes_its_processor_time_itself(tmp_path: Path) -> None:
    pipeline(tmp_path, trials=100_000)
    mark, study = tmp_path / "a.json", tmp_path / "study"
    mark.write_text('{"digest": "d", "processor_seconds": 100.0}')
    program = [sys.executable, "-m", "meshtune.cli.step", str(mark), "tune", str(tmp_path / "study.yaml")]
    with subprocess.Popen([*program, "--folder", str(study)], stdin=subprocess.PIPE) as step:
        while not (study / "study.db").exists():
            assert step.poll() is None
            time.sleep(0.02)
        assert step.stdin is not None
        step.stdin.close()  # as the end of `meshtune run` does
        assert step.wait() == 75
    assert processor_seconds(mark) > 100
    assert json.loads(mark.read_text())["digest"] == "d"


def processor_seconds(mark: Path) -> float:
    return float(json.loads(mark.read_text())["processor_seconds"])
