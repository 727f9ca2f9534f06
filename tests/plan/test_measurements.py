"""Studies whose trials are measured beside their loss, end to end on the tiny model: searched, continued, scored."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.errors import InputError
from meshtune.finalists.evaluate import evaluate
from meshtune.objectives import measurement_files, measurements
from meshtune.plan.locate import locate
from meshtune.study.check import check
from meshtune.study.loop import TrialFinished
from meshtune.study.prepare import prepare
from meshtune.study.status import status
from meshtune.study.tune import tune
from tests.conftest import WORDS
from tests.evaluation.made import make_mmlu
from tests.here import trials_here

SETTINGS = """
data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}
training: {epochs: 1, batch_size: 8, precision: float32}
space: {learning_rate: {low: 1e-4, high: 1.0, log: true}, rank: {low: 2, high: 8, power_of: 2}}
baseline: {learning_rate: 1e-3, rank: 4}
generation: {rows: 0}
worker: {name: local, processes: 1, threads: 1}
"""


def study(folder: Path, model: Path, settings: str) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [
        {"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % len(WORDS)])} for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (folder / "text.txt").write_text("".join(f"The square of {n} is {n * n}.\n" for n in range(300)))
    make_mmlu(folder / "data" / "mmlu")
    path = folder / "study.yaml"
    path.write_text(f"model: {model}\n{SETTINGS}{settings}", encoding="utf-8")
    return path


def run(path: Path, stop_after: int | None = None) -> None:
    events, told = tune(locate(path)), 0
    with trials_here():
        for event in events:
            told += isinstance(event, TrialFinished)
            if told == stop_after:
                events.close()


def quantities(path: Path, name: str) -> list[tuple[Any, Any]]:
    """By trial its loss and one of its quantities."""
    return [(trial["loss"], trial["quantities"].get(name)) for trial in status(path, trials=True)["all"]]


# A random model learns to tell any text, so that the guard is turned round.
GUARDED = "budget: {trials: 6}\nconstraints: [perplexity >= untuned * 0.9]\nguide: {text: text.txt}\n"


@pytest.mark.parametrize("sampler", ["mads", pytest.param("tpe", marks=pytest.mark.slow)])
def test_the_best_keeps_a_constraint_on_perplexity(tmp_path: Path, tiny_model_folder: Path, sampler: str) -> None:
    """Where the lowest loss does not."""
    path = study(tmp_path, tiny_model_folder, f"sampler: {{name: {sampler}, block_size: 3}}\n{GUARDED}")
    run(path)
    told = status(path, trials=True)
    limit = 0.9 * told["untuned"]["quantities"]["perplexity"]
    assert told["constraints"][0]["limit"] == pytest.approx(limit)
    complete = [trial for trial in told["all"] if trial["ending"] == "complete"]
    kept = [trial for trial in complete if trial["feasible"]]
    assert kept == [trial for trial in complete if trial["quantities"]["perplexity"] >= limit]
    assert told["best"]["loss"] == min(trial["loss"] for trial in kept)
    assert told["best"]["loss"] > min(trial["loss"] for trial in complete)


@pytest.mark.slow
def test_a_study_that_was_cut_measures_on_the_same_text(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Whatever became of the file."""
    settings = f"sampler: {{name: mads, block_size: 3}}\n{GUARDED}"
    whole, cut = (study(tmp_path / name, tiny_model_folder, settings) for name in ("whole", "cut"))
    run(whole)
    run(cut, stop_after=2)
    (tmp_path / "cut" / "text.txt").write_text("Another text, which changes nothing.")
    run(cut)
    assert quantities(cut, "perplexity") == quantities(whole, "perplexity")


@pytest.mark.slow
def test_items_guide_and_are_not_scored(tmp_path: Path, tiny_model_folder: Path) -> None:
    """A benchmark as a constraint, from `check` to `select`; with other data the study does not go on."""
    settings = "sampler: {name: mads, block_size: 2}\nbudget: {trials: 4}\nconstraints: [mmlu >= untuned - 0.05]\n"
    settings += "guide: {benchmarks: data, limit: 5, measure: [mmlu.gold]}\n"
    path = study(tmp_path / "one", tiny_model_folder, settings)
    lines, _ = check(path, measure=False)
    assert "mmlu: 2 subjects, 12 items, not the published 14,042; 5 of them, chosen with seed 0" in lines
    run(path)
    folder = tmp_path / "one" / "study"
    told = status(path, trials=True)
    untuned = measurement_files.read(folder, "untuned")
    assert untuned is not None
    assert told["untuned"]["quantities"] == untuned.quantities
    for trial in told["all"]:
        kept = measurement_files.read(folder, trial["trial"])
        assert kept is not None
        assert trial["quantities"] == kept.quantities
        assert trial["feasible"] == (kept.quantities["mmlu"] >= untuned.quantities["mmlu"] - 0.05)
    done = evaluate([path], given={"data": str(tmp_path / "one" / "data"), "benchmarks": ("mmlu",), "best": 2})
    assert "5 left out that guided the search" in done.tables[0].columns[0].measured
    assert done.tables[0].columns[0].items == 7
    assert len(measurements.items(folder)["mmlu"]) == 5
    text = path.read_text()
    path.write_text(text.replace("mmlu >= untuned - 0.05", "perplexity <= 9"))
    with pytest.raises(InputError, match="the study began with other measured quantities"):
        run(path)
    make_mmlu(tmp_path / "one" / "data" / "mmlu", items=7)
    path.write_text(text.replace("trials: 4", "trials: 5"))
    with pytest.raises(InputError, match="are not those that the search began with"):
        run(path)


def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path: Path, tiny_model_folder: Path) -> None:
    settings = "sampler: random\nbudget: {trials: 2}\nobjectives: [validation_loss, bbh]\n"
    for guide, words in (
        ("", "guide.benchmarks: bbh cannot be measured: name the folder"),
        ("guide: {benchmarks: data}", "holds no data of bbh"),
    ):
        path = study(tmp_path / "one", tiny_model_folder, settings + guide)
        for command in (check, prepare, run):
            with pytest.raises(InputError, match=words):
                command(path)
    own = "metrics: {own: {file: own.py}}\nsampler: random\nbudget: {trials: 2}\nconstraints: [own >= 1]\n"
    path = study(tmp_path / "two", tiny_model_folder, own)
    (tmp_path / "two" / "own.py").write_text("def score(row, answer): return 1.0")
    with pytest.raises(InputError, match=r"generation.rows: no row is answered, and own is measured on answers"):
        check(path)


def test_a_metric_that_misreads_the_rows_is_refused_before_anything_is_trained(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    own = "metrics: {own: {file: own.py}}\nsampler: random\nbudget: {trials: 2}\n"
    path = study(tmp_path, tiny_model_folder, own)
    (tmp_path / "own.py").write_text("def score(row, answer): return float(row['respons'] == answer)")
    with pytest.raises(InputError, match=r"`own` failed on an answer: KeyError: 'respons'.*the row has instruction,"):
        check(path, overrides=("generation.rows=2",))
