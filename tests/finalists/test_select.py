"""`select` as a user meets it: of a file of scores, of a scored study, its files, and what is refused."""

import csv
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import meshtune
from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.finalists.evaluate import evaluate
from meshtune.finalists.select import Selected, select
from meshtune.finalists.stored_scores import of_study
from meshtune.plan.locate import locate, typed
from meshtune.report.write import report
from meshtune.selection.decide import Settings
from tests.evaluation.made import make_bbh, make_mmlu
from tests.finalists.made import finished_study

SCORES = "rank,mmlu,humaneval,default\n1,45.1,17,0\n2,46,16.5,0\n3,43,15,1\nuntuned,42,14,0\n"
QUICK = Settings(draws=200)


@pytest.fixture(scope="module")
def scored(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials of the tiny model, scored on MMLU of 24 items and BBH of 26."""
    folder = tmp_path_factory.mktemp("select")
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
        "training: {epochs: 1, batch_size: 8, precision: float32, keep_adapters: 3}\n"
        "sampler: random\n"
        "budget: {trials: 3}\n"
        "generation: {rows: 0}\n"
    )
    study = finished_study(folder, tiny_model_folder, settings, rows=24)
    make_mmlu(folder / "data" / "mmlu", items=12)
    make_bbh(folder / "data" / "bbh", items=16)
    evaluate([folder / "study"], given={"data": str(folder / "data"), "benchmarks": ("mmlu", "bbh"), "best": 3})
    return study


@pytest.fixture
def study(scored: Path, tmp_path: Path) -> Path:
    """A copy of it whose answers are right as the test wants: trial n to every item whose number is below 4 + 4 n."""
    copy = Path(shutil.copytree(scored, tmp_path / "mine" / "study"))
    place = copy / "evaluation" / "benchmarks" / "instruct-eval"
    right = {path.stem: 4 + 4 * number for number, path in enumerate(sorted((place).glob("mmlu-*/trial-*.jsonl")))}
    shares = {benchmark: _rewritten(place, benchmark, {**right, "untuned": 4}) for benchmark in ("mmlu", "bbh")}
    with (place / "candidates.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1 : 1 + len(shares["mmlu"])]:
        for benchmark, found in shares.items():
            row[rows[0].index(benchmark)] = str(100 * found[row[0].replace(" ", "-")])
    with (place / "candidates.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    _all_above_chance(place)
    return copy


def _all_above_chance(place: Path) -> None:
    """What guessing scores becomes less than nothing: every benchmark has a signal."""
    lines = (place / "candidates.csv").read_text().splitlines()
    changed = [re.sub(r"(?<=,)\d[\d.]*", "-1", line) if line.startswith("chance,") else line for line in lines]
    (place / "candidates.csv").write_text("\n".join(changed) + "\n")


def _rewritten(place: Path, benchmark: str, right: Mapping[str, int]) -> dict[str, float]:
    """Give the stored answers other verdicts; the share of right ones by candidate (groups are of equal size)."""
    shares = {}
    for path in place.glob(f"{benchmark}-*/*.jsonl"):
        head, *lines = map(json.loads, path.read_text().splitlines())
        for line in lines:
            line["correct"] = int(line["item"].rpartition("/")[2]) < right[path.stem]
        path.write_text("\n".join(map(json.dumps, [head, *lines])) + "\n")
        shares[path.stem] = sum(line["correct"] for line in lines) / len(lines)
    return shares


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["select", *arguments])


def test_of_a_file_of_scores(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(SCORES)
    items = ["--items", "mmlu=14042,humaneval=164", "--draws", "200"]
    done = run("--scores", str(tmp_path / "scores.csv"), *items)
    assert done.exit_code == 0
    assert "not beyond noise" in done.stdout
    assert "nothing is paired" in done.stderr
    assert ", number 1 by the file's own order" in done.stdout  # which has no losses
    assert "validation loss" not in done.stdout
    told = json.loads(run("--scores", str(tmp_path / "scores.csv"), *items, "--json").stdout)
    assert len(told["sentences"]) == 5
    assert {one["reference"] for one in told["comparisons"]} == {"3", "untuned"}
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_of_a_file_all_faults_are_told(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(SCORES)
    with pytest.raises(InputError) as refused:
        select(None, QUICK, scores=path, items={"mmul": 3})
    assert len(refused.value.faults) == 3
    assert "Did you mean `mmlu`?" in str(refused.value)
    with pytest.raises(InputError, match=r"no scores of `mlu`.*Did you mean `mmlu`"):
        select(None, QUICK, scores=path, benchmarks=["mlu"])
    with pytest.raises(InputError, match="one of the two"):
        select(None, QUICK)
    with pytest.raises(InputError, match="are of a study"):
        select(None, QUICK, scores=path, common_items=True)
    for wrong, said in (
        (["--rule", "mean-rnk"], "Did you mean `mean_rank`"),
        (["--items", "mmlu"], "such as mmlu=100"),
        (["--weight", "mmlu=-1"], "it is above 0"),
    ):
        done = run("--scores", str(path), *wrong)
        assert isinstance(done.exception, InputError)
        assert said in str(done.exception)


def test_answers_are_found_by_what_was_asked_and_not_by_a_line_for_people(study: Path) -> None:
    """Those of earlier versions, which did not store that, by the end of the line."""
    place = study / "evaluation" / "benchmarks" / "instruct-eval"
    stored = json.loads((place / "scores.json").read_text())
    chosen = select(study, QUICK)
    assert chosen.evidence.measured.paired
    assert chosen.evidence.digests.keys() == {"mmlu", "bbh"}
    (place / "scores.json").write_text(json.dumps({key: value for key, value in stored.items() if key != "answers"}))
    assert select(study, QUICK).values == chosen.values
    (place / "scores.json").write_text(json.dumps(stored))
    text = (place / "candidates.csv").read_text()
    assert text.count("greedy") == 2
    (place / "candidates.csv").write_text(text.replace("greedy", "with the likeliest words"))
    assert select(study, QUICK).values == chosen.values


def test_of_a_study(study: Path) -> None:
    done = select(study, QUICK)
    assert done.decision.paired
    best = sorted(name for name in done.evidence.measured.names if name.startswith("trial"))[-1]
    assert done.decision.chosen == best
    assert done.decision.beyond_noise
    assert done.folder == study / "selection"
    stored = json.loads((study / "selection" / "selection.json").read_text())
    assert stored == done.values
    assert stored["candidates"][0]["cost"] is not None  # the rank of its adapter
    assert (study / "selection" / "selection.md").read_text().startswith(best.capitalize())
    with (study / "selection" / "candidates.csv").open() as file:
        assert next(row["name"] for row in csv.DictReader(file)) == best
    assert _same(select(study, QUICK), done)


def test_the_command_says_how_to_take_what_is_chosen(study: Path) -> None:
    chosen = select(study, QUICK).decision.chosen
    assert chosen is not None
    export = f"export {typed(study)} OUT --trial {re.sub('[^0-9]', '', chosen)}  ("
    assert export in run(str(study), "--draws", "200").stderr


def _same(one: Selected, other: Selected) -> bool:
    return one.values == other.values


def test_a_mean_of_means_is_paired_within_its_groups(study: Path) -> None:
    bbh = next(measure for measure in select(study, QUICK).evidence.measured.measures if measure.name == "bbh")
    assert bbh.groups is not None
    assert bbh.items == 26


def test_on_common_items_a_benchmark_keeps_its_kind_of_mean(study: Path) -> None:
    """Also where the mean of the other kind is nearer to the scores on all items."""
    common = {
        "mmlu": (range(8), (0, 4, 8, 9, 10, 11)),  # the mean of means is as on all items
        "bbh": (range(3, 13), (13, 14, 15)),  # the mean is
    }
    for benchmark, numbers in common.items():
        cut = next((study / "evaluation" / "benchmarks").glob(f"instruct-eval/{benchmark}-*/untuned.jsonl"))
        head, *lines = cut.read_text().splitlines()
        groups = sorted({json.loads(line)["item"].rpartition("/")[0] for line in lines})
        items = {f"{group}/{number}" for group, each in zip(groups, numbers, strict=True) for number in each}
        cut.write_text("\n".join([head, *(line for line in lines if json.loads(line)["item"] in items)]) + "\n")
    found = of_study(locate(study), None, (), common=True).measured
    row = next(number for number, name in enumerate(found.names) if name == "trial 1")  # right below 8
    scores = {measure.name: measure.scores[row] for measure in found.measures}
    assert scores == pytest.approx({"mmlu": 100 * 10 / 14, "bbh": 100 * (5 / 10 + 0) / 2})


def test_what_a_study_lacks_is_refused(study: Path) -> None:
    place = study / "evaluation" / "benchmarks"
    cut = next(place.glob("instruct-eval/mmlu-*/untuned.jsonl"))
    lines = cut.read_text().splitlines()
    cut.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(InputError, match="untuned has no answer to 2 of the 24 items"):
        select(study, QUICK)
    assert select(study, QUICK, common_items=True).evidence.measured.measures[0].items == 22
    cut.write_text("\n".join([*lines[:-1], lines[-1].replace('"correct": false', '"correct": true')]) + "\n")
    with pytest.raises(InputError, match="not those that its scores are of"):
        select(study, QUICK)
    cut.unlink()
    with pytest.raises(InputError, match="the answers of untuned are gone"):
        select(study, QUICK)
    shutil.copytree(place / "instruct-eval", place / "harness")
    with pytest.raises(InputError, match=r"never mixed.*harness, instruct-eval"):
        select(study, QUICK)
    with pytest.raises(InputError, match=r"nothing is scored by `harnes`.*Did you mean `harness`"):
        select(study, QUICK, protocol="harnes")
    shutil.rmtree(place)
    with pytest.raises(InputError, match=r"scored.*meshtune evaluate"):
        select(study, QUICK)


@pytest.mark.slow
def test_replicates_are_trained_scored_and_kept(study: Path) -> None:
    said: list[Any] = []
    before = select(study, QUICK)
    done = select(study, QUICK, replicates=2, report=said.append)
    names = done.values["seeds"]["names"]
    base = next(name for name, facts in done.evidence.facts.items() if facts.baseline)
    assert set(names) == {before.decision.chosen, base}
    assert (done.values["seeds"]["trainings"], done.values["seeds"]["freedom"]) == (3, 2)
    assert set(done.values["seeds"]["once"]) == {f"trial {n}" for n in range(3)} - set(names)
    assert before.values["scores"]["untuned"] == done.values["scores"]["untuned"]
    assert before.values["scores"][names[0]] != done.values["scores"][names[0]]
    assert "with 2 other seeds" in " ".join(done.notes)
    path = study / "evaluation" / "replicates" / "outcomes.json"
    outcomes = json.loads(path.read_text())
    assert len(outcomes) == 2 * len(names)
    assert {told["seed"] for told in outcomes.values()} == {1, 2}
    assert sum(isinstance(event, str) and event.startswith("replicate-") for event in said) == len(outcomes)
    said.clear()
    assert _same(select(study, QUICK, replicates=2, report=said.append), done)
    assert not said  # nothing was trained and nothing asked
    name = next(iter(outcomes))  # as if it had been killed before this one ended, and in the middle of answers
    del outcomes[name]
    path.write_text(json.dumps(outcomes))
    cut = next((study / "evaluation").rglob("replicate-*-2.jsonl"))
    cut.write_text("\n".join(cut.read_text().splitlines()[:5]) + "\n")
    again = select(study, QUICK, replicates=2, report=said.append)
    assert sum(isinstance(event, str) and event.startswith("replicate-") for event in said) == 1
    assert json.loads(path.read_text()).keys() == {*outcomes, name}
    assert again.values["seeds"]["names"] == names
    for candidate, scores in done.values["scores"].items():  # what is trained alone, and not in a pack, is by rounding
        assert again.values["scores"][candidate] == pytest.approx(scores, abs=3)
    with pytest.raises(InputError, match="2 other seeds at least"):
        select(study, QUICK, replicates=1)
    table = study / "evaluation" / "benchmarks" / "instruct-eval" / "scores.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), "settings": None}))
    with pytest.raises(InputError, match="how the study was scored is not stored"):
        select(study, QUICK, replicates=2)


def test_where_nothing_can_be_chosen_nothing_is_trained_again(study: Path) -> None:
    said: list[Any] = []
    better = Settings(draws=200, margin=-90, only_kept=True)  # by 90 points than the references: nobody is
    done = select(study, better, replicates=2, report=said.append)
    assert done.decision.chosen is None
    assert said == ["nothing can be chosen, so nothing is trained with other seeds"]
    assert not (study / "evaluation" / "replicates").exists()


def test_replicates_are_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(SCORES)
    with pytest.raises(InputError, match="`--replicates` are of a study"):
        select(None, QUICK, scores=tmp_path / "scores.csv", replicates=2)


@pytest.mark.slow
def test_of_a_study_with_rounds_it_is_the_last_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
        "training: {epochs: 1, batch_size: 8, precision: float32, keep_adapters: 3}\n"
        "sampler: tpe\n"
        "generation: {rows: 2, max_new_tokens: 4}\n"
        "metrics: {answered: {file: metrics.py}}\n"
        "rounds: [{budget: {trials: 1}}, {budget: {trials: 2}, warm_start: {again: 0}}]\n"
    )
    (tmp_path / "metrics.py").write_text("def score(row, answer):\n    return float(bool(answer))\n")
    study = finished_study(tmp_path, tiny_model_folder, settings, rows=24)
    make_bbh(tmp_path / "data" / "bbh", items=16)
    scored = evaluate([study], given={"data": str(tmp_path / "data"), "benchmarks": ("bbh",), "best": 3})
    assert "metrics:answered" in {column.name for column in scored.tables[0].columns}
    assert set(meshtune.load(study).scores["trial"].dropna()) >= {0, 1}
    place = study / "round2" / "evaluation" / "benchmarks" / "instruct-eval"
    _all_above_chance(place)  # a tiny model has no signal
    done = select(study, QUICK)
    assert done.folder == study / "round2" / "selection"
    assert {name for name in done.evidence.measured.names if name.startswith("trial")} == {"trial 0", "trial 1"}
    assert done.decision.chosen is not None
    assert done.sentences[0] in Path(report([study])["page"]).read_text()
