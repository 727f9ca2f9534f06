"""`evaluate --race`: who leaves, what tables and `select` say of it, and the same end after an interruption."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.finalists.evaluate import Evaluated, evaluate
from meshtune.finalists.race import Race
from meshtune.finalists.select import select
from meshtune.selection.decide import Settings
from meshtune.selection.rules import DEFAULT, Rule
from tests.evaluation.made import make_bbh, make_mmlu
from tests.finalists.made import finished_study, rewritten

QUICK = Settings(draws=300)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scored(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three trials of the tiny model, scored on MMLU of 60 items and BBH of 42."""
    folder = tmp_path_factory.mktemp("race")
    settings = (
        "data: {sources: [{path: rows.jsonl}], validation: 8, test: 0}\n"
        "training: {epochs: 1, batch_size: 8, precision: float32, keep_adapters: 4}\n"
        "sampler: random\n"
        "budget: {trials: 4}\n"
        "generation: {rows: 0}\n"
    )
    study = finished_study(folder, tiny_model_folder, settings, rows=24)
    make_mmlu(folder / "data" / "mmlu", items=30)
    make_bbh(folder / "data" / "bbh", items=24)
    evaluate([study], given=asked(study))
    return study


@pytest.fixture
def study(scored: Path, tmp_path: Path) -> Path:
    """A copy of it in which one trial is right in most items, and the others in a few more than the baseline."""
    copy = Path(shutil.copytree(scored, tmp_path / "mine" / "study"))
    rewritten(copy, {"untuned": 0.3, "trial-0": 0.3, "trial-1": 0.35, "trial-2": 0.8, "trial-3": 0.35})
    return copy


def asked(study: Path) -> dict[str, Any]:
    return {"data": str(study.parent / "data"), "benchmarks": ("mmlu", "bbh"), "best": 4}


def race(study: Path, scored: Path, said: list[Any] | None = None, rule: Rule = DEFAULT) -> Evaluated:
    return evaluate([study], given=asked(scored), race=rule, report=(said if said is not None else []).append)


def only_asked(study: Path, done: Evaluated) -> None:
    """Take away the answers that the race did not need."""
    assert done.race is not None
    for path in (study / "evaluation" / "benchmarks" / "instruct-eval").glob("*/*.jsonl"):
        head, *lines = map(json.loads, path.read_text().splitlines())
        name, benchmark = path.stem.replace("-", " "), head["benchmark"]
        used = done.race.ids[benchmark][: len(done.race.of(name)[benchmark])]
        kept = [line for line in lines if line["item"] in used]
        path.write_text("\n".join(map(json.dumps, [head, *kept])) + "\n")


def test_a_race_of_one_round_says_so() -> None:
    race = Race("mean_rank", 0.05, 0, 1, {"mmlu": [0, 1]}, {"mmlu": ["a/0", "a/1"]}, {"mmlu": 2})
    assert race.sentence.startswith("race by mean_rank in 1 round, 2 of 2 items: nobody left;")


def test_who_cannot_be_the_best_leaves(study: Path, scored: Path) -> None:
    said: list[Any] = []
    done = race(study, scored, said)
    assert done.race is not None
    assert done.race.first == ("trial 2",)
    assert set(done.race.left) == {"trial 1", "trial 3"}  # the baseline is what the chosen one is compared with
    assert sum(gone.chance for gone in done.race.left.values()) <= 0.05
    assert "loading the model" not in said
    assert sum("leaves the race after" in event for event in said if isinstance(event, str)) == 2
    rows = {row.name: row for row in done.tables[0].rows}
    assert rows["trial 1"].left == sum(done.race.left["trial 1"].items.values())
    assert rows["trial 2"].left is None
    assert done.folder is not None
    table = (done.folder / "candidates.md").read_text()
    assert "left the race, " in table
    assert f"trial 1 after {rows['trial 1'].left} items" in table
    only_asked(study, done)
    again = race(study, scored, said)
    assert (again.race, again.tables) == (done.race, done.tables)
    assert "loading the model" not in said


def test_nobody_leaves_who_has_answered_everything(study: Path, scored: Path) -> None:
    """In a race of one round everybody does, whoever may be the best."""
    few = {**asked(scored), "limit": 20}
    evaluate([study], given=few)
    rewritten(study, {"untuned": 0.3, "trial-0": 0.3, "trial-1": 0.1, "trial-2": 1.0, "trial-3": 0.1})
    done = evaluate([study], given=few, race=DEFAULT)
    assert done.race is not None
    assert done.race.left == {}
    assert {name: len(items) for name, items in done.race.items.items()} == dict(done.race.total)
    assert all(row.left is None for row in done.tables[0].rows)


def test_select_ranks_who_left_and_chooses_from_the_others(study: Path, scored: Path) -> None:
    race(study, scored)
    done = select(study, QUICK)
    assert done.decision.chosen == "trial 2"
    assert "2 of which had left the race" in done.sentences[0]
    assert "left a race of 102 items, and cannot be chosen" in " ".join(done.notes)
    assert {one["name"] for one in done.values["candidates"]} == {f"trial {n}" for n in range(4)}
    with pytest.raises(InputError, match=r"raced by mean_rank.*one that left"):
        select(study, Settings(rule=Rule("weighted_sum"), draws=300))
    with pytest.raises(InputError) as refused:
        select(study, Settings(best=2, draws=300), benchmarks=["mmlu"])
    assert [str(fault).partition(":")[0] for fault in refused.value.faults] == ["--best", "--benchmarks"]
    evaluate([study], given=asked(scored))  # everybody is scored: nothing of the race is left
    assert "race" not in " ".join(select(study, QUICK).sentences)


def test_an_interrupted_race_comes_to_the_same_end(scored: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(scored, tmp_path / "whole" / "study"))
    shutil.rmtree(whole / "evaluation" / "benchmarks")
    done = race(whole, scored)
    other = Path(shutil.copytree(whole, tmp_path / "other" / "study"))
    for number, path in enumerate(sorted((other / "evaluation" / "benchmarks").rglob("*.jsonl"))):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[: 1 + (11 * number) % len(lines)]) + "\n")
    again = race(other, scored)
    assert again.race == done.race
    assert again.tables == done.tables


def test_what_is_no_race_is_refused(study: Path, scored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="losses are known"):
        race(study, scored, rule=Rule("validation_loss"))
    with pytest.raises(InputError, match="two ranked candidates"):
        evaluate([study], given=asked(scored), trials=[0], race=DEFAULT)
    with pytest.raises(InputError, match="`--race` is of one study"):
        evaluate([study, scored], given=asked(scored), race=DEFAULT)
    with pytest.raises(InputError, match="whole tasks"):
        evaluate([study], given={"protocol": "harness"}, race=DEFAULT)
    (tmp_path / "scores.csv").write_text("rank,mmlu\n1,45\n2,44\n")
    with pytest.raises(InputError, match="files of scores"):
        evaluate([], scores=[tmp_path / "scores.csv"], race=DEFAULT)
    done = CliRunner().invoke(app, ["evaluate", str(study), "--rule", "ideal_point"])
    assert "add `--race`" in str(done.exception)


def test_after_a_race_the_leading_ones_are_trained_with_other_seeds(study: Path, scored: Path) -> None:
    """Asked what their originals were; once everybody is scored, only what is missing."""
    done = race(study, scored)
    before = select(study, QUICK)
    said: list[Any] = []
    found = select(study, QUICK, replicates=2, report=said.append)
    assert done.race is not None
    assert found.values["seeds"]["names"] == ["trial 2", "trial 0"]
    assert found.values["seeds"]["once"] == ["trial 1", "trial 3"]
    assert found.values["scores"]["untuned"] == before.values["scores"]["untuned"]
    assert found.values["scores"]["trial 2"] != before.values["scores"]["trial 2"]
    assert "left a race of 102 items" in " ".join(found.notes)
    answers = study / "evaluation" / "benchmarks" / "instruct-eval"

    def admitted(benchmark: str) -> set[str]:
        (place,) = {path.parent for path in answers.glob(f"{benchmark}-*/replicate-*.jsonl")}
        told = [path.read_text().splitlines()[1:] for path in place.glob("replicate-*.jsonl")]
        assert len(told) == 4
        (items,) = {frozenset(json.loads(line)["item"] for line in lines) for lines in told}
        return set(items)

    for benchmark, ids in done.race.ids.items():
        assert admitted(benchmark) == set(ids)
    said.clear()
    assert select(study, QUICK, replicates=2, report=said.append).values == found.values
    assert not said
    evaluate([study], given=asked(scored))
    again = select(study, QUICK, replicates=2, report=said.append)
    assert not [event for event in said if isinstance(event, str) and event.startswith("replicate-")]  # none is trained
    assert len(admitted("mmlu")) == 60
    assert again.values["seeds"]["names"][-1] == "trial 0"
