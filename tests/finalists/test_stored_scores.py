"""What `select` chooses from: of files of scores, and of a study whose scores alone are known."""

import json
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.finalists.evaluate import as_json, evaluate
from meshtune.finalists.select import select
from meshtune.finalists.stored_scores import of_file, of_study
from meshtune.plan.locate import locate
from meshtune.selection.decide import Settings
from meshtune.selection.resampling import resample
from tests.finalists.made import told_study

QUICK = Settings(draws=200)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "scores.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def scored(folder: Path, protocol: str, *lines: str) -> Path:
    """A study of three trials with these scores and no answers; the lower their loss, the more they violate."""
    study = told_study(folder, [(2.5, 1.0), (2.3, 3.0), (2.4, 2.5)])
    place = study / "evaluation" / "benchmarks" / protocol
    place.mkdir(parents=True)
    (place / "candidates.csv").write_text("\n".join([*lines, f"protocol,{protocol}"]) + "\n")
    (place / "scores.json").write_text(json.dumps({"results": {}}))
    return study


def test_a_study_of_a_program_is_not_sent_to_evaluate_which_refuses_it(tmp_path: Path) -> None:
    objective = "objective: {command: [python3, a.py, '{x}']}\nspace: {x: [1, 2]}\nbudget: {trials: 2}\n"
    study = told_study(tmp_path, [(2.5, 1.0), (2.3, 1.0)], objective)
    with pytest.raises(InputError, match=r"by a program of yours.*`--scores FILE.csv`"):
        of_study(locate(study), None, [])


def test_a_benchmark_of_a_file_without_signal_is_left_out_as_evaluate_says(tmp_path: Path) -> None:
    path = written(tmp_path, "rank,mmlu,bbh", "1,45,2", "2,45.5,3", "items,1000,1000", "chance,25,50")
    told = as_json(evaluate([], scores=[path]))
    assert [one["signal"] for one in told["studies"][0]["benchmarks"]] == [True, False]
    found = select(None, QUICK, scores=path)
    assert found.decision.benchmarks == ("mmlu",)
    assert "BBH is left out: no signal" in found.notes[0]


def test_who_left_a_race_is_left_out_of_a_file(tmp_path: Path) -> None:
    rows = ("a,1,,45,15", "b,2,40,60,16", "c,3,,47,16", "untuned,,,44,15", "items,,,1000,164")
    found = select(None, QUICK, scores=written(tmp_path, "name,rank,left,mmlu,humaneval", *rows))
    assert found.decision.chosen == "c"
    assert found.decision.pareto == ("c",)
    assert found.evidence.measured.names == ("a", "c", "untuned")
    assert "b left a race after 40 items and is left out: scores of fewer items are not comparable." in found.notes


def test_a_file_says_who_can_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, "name,mmlu", "a,45", "b,46", "items,1000")
    with pytest.raises(InputError, match="needs a column `rank`"):
        of_file(path, [], {})


@pytest.mark.parametrize(
    ("losses", "ranks"),
    [
        (("2.5", "2.6", "2.7"), [1, 4, 9]),
        (("2.7", "2.5", "2.6"), [3, 1, 2]),  # ranked by something else
        (("2.7", "", "2.6"), [1, 4, 9]),
    ],
)
def test_ranks_of_a_file_are_by_its_losses(tmp_path: Path, losses: tuple[str, ...], ranks: list[int]) -> None:
    rows = [f"{rank},{loss},45" for rank, loss in zip((1, 4, 9), losses, strict=True)]
    path = written(tmp_path, "rank,loss,mmlu", *rows, "untuned,,44", "items,,1000")
    assert [facts.rank for facts in of_file(path, [], {}).facts.values()] == [*ranks, None]


def test_the_rank_of_a_trial_is_by_its_loss_whatever_the_table_ranks_by(tmp_path: Path) -> None:
    """The table has first what keeps the constraint, then the least violation."""
    rows = ("trial 0,1,0,2.5,44", "trial 2,2,2,2.4,45", "trial 1,3,1,2.3,46", "untuned,,,,40")
    study = scored(tmp_path, "instruct-eval", "name,rank,trial,loss,mmlu", *rows, "items,,,,1000")
    found = of_study(locate(study), None, [])
    assert {name: facts.rank for name, facts in found.facts.items()} == {
        **{"trial 0": 3, "trial 2": 2, "trial 1": 1},
        "untuned": None,
    }
    assert "number 3 by validation loss" in select(study, QUICK).sentences[0]


def test_tasks_of_the_harness_count_by_their_items_and_vary_by_their_errors(tmp_path: Path) -> None:
    rows = ("trial 0,1,0,60,15.5,60,4", "trial 1,2,1,70,14.5,64,4", "untuned,,,50,15.8,50,4", "items,,,10,,900,")
    study = scored(tmp_path, "harness", "name,rank,trial,small,small:se,large,large:se", *rows)
    table = study / "evaluation" / "benchmarks" / "harness" / "candidates.csv"
    for found in (of_study(locate(study), None, []), of_file(table, [], {})):
        assert [measure.items for measure in found.measured.measures] == [10, 900]
        drawn = resample(found.measured.only(["large"]), 2000).std(axis=0)
        assert drawn.ravel() == pytest.approx([4, 4, 4], rel=0.1)
    assert select(study, QUICK).decision.left_out == {"small": "10 items are fewer than 20"}
