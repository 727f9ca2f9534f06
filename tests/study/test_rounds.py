"""Studies with `rounds`: run, killed, continued, read and taken away as any study."""

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import meshtune
from meshtune.data.store import ORIGINAL_SIDES, original_rows
from meshtune.errors import InputError
from meshtune.plan.locate import locate
from meshtune.record.storage import open_storage
from meshtune.report.sentences import agreement, round_lines
from meshtune.report.write import report
from meshtune.study.check import check
from meshtune.study.loop import Finished, StudyEvent, TrialFinished
from meshtune.study.rounds import tune
from meshtune.study.status import _seen_from_outside, status
from meshtune.study.stop import stop
from tests.kill import command_study, run
from tests.test_kill_lora import lora_study

ROUNDS = """\
rounds:
  - budget: {trials: 6}
    space: {x: {high: 3}}
  - budget: {trials: 9}
    warm_start: {values: VALUES}
"""


def two_rounds(folder: Path, values: str = "as_is", **options: Any) -> Path:
    path = command_study(folder, processes=1, **options)
    path.write_text(path.read_text() + ROUNDS.replace("VALUES", values))
    return path


def record_of_rounds(path: Path) -> list[list[dict[str, Any]]]:
    """What must be equal in a killed and an uninterrupted study; in this process, which is faster."""
    keys = ("trial", "origin", "block", "pack", "ending", "loss", "losses", "hyperparameters", "tokens")
    found = [status(path.parent / "study" / name, trials=True)["all"] for name in ("round1", "round2")]
    return [[{key: trial[key] for key in keys} for trial in trials] for trials in found]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that ran without interruption, by the command line."""
    path = two_rounds(tmp_path_factory.mktemp("finished"))
    ended = run(path, "--json")
    assert ended.returncode == 0, ended.stderr
    assert "round 2 of 2" in ended.stderr
    told = json.loads(ended.stdout)
    assert [(each["state"], each["trials"]["proposed"]) for each in told["rounds"]] == [
        ("finished", 6),
        ("finished", 9),
    ]
    return path


def test_the_second_round_starts_from_the_first(finished: Path) -> None:
    first, second = record_of_rounds(finished)
    assert [trial["origin"] for trial in second[:6]] == ["baseline", *["enqueued"] * 4, "search"]
    complete = [trial for trial in first[1:] if trial["ending"] == "complete"]
    best = sorted(complete, key=lambda trial: (trial["loss"], trial["trial"]))[:4]
    assert [trial["hyperparameters"] for trial in second[1:5]] == [trial["hyperparameters"] for trial in best]
    assert max(trial["hyperparameters"]["x"] for trial in first) <= 3
    told = status(finished, trials=True)
    assert told["warm_start"]["study"] == "round1"
    assert told["best"]["loss"] == min(trial["loss"] for trial in second if trial["ending"] == "complete")
    (found,) = told["agreement"]
    assert (found["rounds"], found["points"], found["rho"]) == ([1, 2], 5, pytest.approx(1))  # one program: one loss
    assert told["all_rounds"]["trials"] == 15
    assert len(told["all"]) == 9


def test_one_storage_holds_both_and_readers_take_the_whole_or_a_round(finished: Path) -> None:
    folder = finished.parent / "study"
    names = set(optuna.get_all_study_names(open_storage(f"sqlite:///{folder / 'study.db'}")))
    assert names == {"study.round1", "study.round2", "study.round2.warm_start"}
    study = meshtune.load(finished)
    assert [len(each.trials) for each in study.rounds] == [6, 9]
    assert len(study.trials) == 9
    assert study.optuna.best_value == study.best.loss == study.rounds[1].best.loss
    assert study.rounds[0].rounds == ()
    assert (study.state, study.rounds[0].state) == ("finished", "finished")
    assert len(study.config.rounds) == 2
    shown = [status(path) for path in (finished, folder, folder / "study.yaml")]
    assert shown[0] == shown[1] == shown[2]
    lines = round_lines(shown[0])
    assert lines[0].startswith("round1: finished (6 trials are done), 6 trials, best ")
    assert lines[2].startswith("all rounds: 15 trials, ")
    evidence = "rank correlation +1.00 (95 % interval +0.16 to +1.00) of 5 points in rounds 1 and 2"
    assert lines[3] == f"{evidence}: round 1 stands for round 2, as far as these points tell"
    page = Path(report([finished])["page"])
    assert "<h2>Rounds</h2>" in page.read_text()
    assert "Rank correlation +1.00" in page.read_text()
    table = (page.parent / "trials.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in table] == ["study", *["round1"] * 6, *["round2"] * 9]
    assert "<h2>Rounds</h2>" not in Path(report([folder / "round1"])["page"]).read_text()


def test_a_finished_study_runs_nothing_again_and_a_closed_round_stays_closed(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "study.yaml"
    before = record_of_rounds(path)
    path.write_text(path.read_text().replace("trials: 6", "trials: 30").replace("trials: 9", "trials: 11"))
    events = list(tune(locate(path)))
    assert [event.trial.number for event in events if isinstance(event, TrialFinished)] == [9, 10]
    after = record_of_rounds(path)
    assert (after[0], after[1][:9], len(after[1])) == (*before, 11)


@pytest.mark.parametrize(
    ("number", "told"),
    [(2, 1), *(pytest.param(*at, marks=pytest.mark.slow) for at in ((1, 3), (2, 0), (2, 6)))],
)
def test_killed_it_goes_on_to_the_same_record(finished: Path, tmp_path: Path, number: int, told: int) -> None:
    """In the first round; between them, as the second is announced; in what is evaluated again; in the search."""
    path = two_rounds(tmp_path)
    kill(path, number, told)
    if (number, told) == (2, 0):
        assert status(path)["state"] == "stopped"
        assert "round2: has not begun" in round_lines(status(path))
    list(tune(locate(path)))
    assert record_of_rounds(path) == record_of_rounds(finished)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "values"), [("tpe", "as_is"), ("mads", "shifted")])
def test_so_it_does_with_another_sampler_and_shifted_values(tmp_path: Path, sampler: str, values: str) -> None:
    whole, path = (two_rounds(tmp_path / name, values, sampler=sampler) for name in ("whole", "killed"))
    list(tune(locate(whole)))
    kill(path, 2, 7)
    list(tune(locate(path)))
    assert record_of_rounds(path) == record_of_rounds(whole)


def kill(path: Path, number: int, told: int) -> None:
    """Run it up to so many told trials of a round, and no further."""
    arguments = [sys.executable, "-c", KILLED, str(path), str(number), str(told)]
    killed = subprocess.run(arguments, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


KILLED = """
import os, signal, sys
from pathlib import Path
from meshtune.plan.locate import locate
from meshtune.study.rounds import tune
from meshtune.study.loop import Stage, TrialFinished

path, number, told = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
round_, ended = 0, 0
for event in tune(locate(path)):
    if isinstance(event, Stage) and event.text.startswith("round "):
        round_, ended = round_ + 1, 0
    ended += isinstance(event, TrialFinished)
    if (round_, ended) == (number, told):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def until(events: Iterator[StudyEvent], kind: type) -> list[StudyEvent]:
    """Events up to the first of a kind."""
    found = []
    for event in events:
        found.append(event)
        if isinstance(event, kind):
            break
    return found


def test_asked_to_stop_it_stops_in_the_round_that_is_open(tmp_path: Path) -> None:
    path = two_rounds(tmp_path)
    events = tune(locate(path))
    until(events, TrialFinished)
    assert stop(path) is not None  # the whole is named, and its lease is held
    ended = [event for event in events if isinstance(event, Finished)]
    assert [(event.reason, event.complete) for event in ended] == [("asked to stop", False)]
    told = status(path)
    assert (told["state"], told["rounds"][0]["state"], told["rounds"][1]["state"]) == ("stopped", "stopped", "waiting")
    assert told["agreement"] == []


def test_hours_and_tokens_outside_are_of_all_rounds(tmp_path: Path) -> None:
    path = two_rounds(tmp_path)
    path.write_text(path.read_text().replace("budget: {trials: 40}", "budget: {trials: 40, hours: 0.0001}"))
    events = list(tune(locate(path)))
    ended = [event.reason for event in events if isinstance(event, Finished)]
    assert ended == [
        "the budget of 0.0001 hours is spent",
        "the budget of 0.0001 hours is spent: round 2 has not begun",
    ]
    told = status(path)
    assert (told["state"], told["reason"]) == ("finished", "the budget of 0.0001 hours is spent")
    list(tune(locate(path, overrides=("budget.hours=1",))))
    assert [each["state"] for each in status(path)["rounds"]] == ["finished", "finished"]


def test_a_round_without_a_limit_of_its_own_keeps_those_of_all(tmp_path: Path) -> None:
    path = two_rounds(tmp_path)
    path.write_text(
        path.read_text()
        .replace("budget: {trials: 40}", "budget: {trials: 40, hours: 0.0001}")
        .replace("budget: {trials: 6}", "budget: {trials: 6, hours: null}")
    )
    events = list(tune(locate(path)))
    ended = next(event.reason for event in events if isinstance(event, Finished))
    assert ended == "the budget of 0.0001 hours is spent"


def test_a_round_that_found_nothing_says_what_the_next_one_needs(tmp_path: Path) -> None:
    path = two_rounds(tmp_path)
    (tmp_path / "program.py").write_text('print(\'{"ending": "out_of_memory"}\')')
    with pytest.raises(InputError, match=r"rounds\.1: .*Round 2 starts from it: let round 1 have more trials"):
        list(tune(locate(path)))


def test_adapters_are_where_they_are_seen_from_outside() -> None:
    seen = _seen_from_outside({"best": {"adapter": "adapters/3"}, "recommended": {"adapter": "adapters/5"}}, "round2")
    assert [seen[name]["adapter"] for name in ("best", "recommended")] == ["round2/adapters/3", "round2/adapters/5"]


@pytest.mark.parametrize("rounds", [False, True])
def test_with_a_storage_elsewhere_the_studys_folder_is_the_study(tmp_path: Path, rounds: bool) -> None:
    path = two_rounds(tmp_path) if rounds else command_study(tmp_path, trials=6, processes=1)
    path.write_text(path.read_text() + f"storage: sqlite:///{tmp_path / 'other.db'}\n")
    ended = run(path)
    assert ended.returncode == 0, ended.stderr
    whole = status(path)
    for named in (tmp_path / "study", tmp_path / "study" / "study.yaml"):
        assert status(named)["best"] == whole["best"]
    assert run(tmp_path / "study").returncode == 0
    assert status(path)["best"] == whole["best"]
    assert not (tmp_path / "study" / "study").exists()


def test_a_renamed_folder_holds_the_same_study(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.parent / "study", tmp_path / "renamed"))
    assert status(folder)["best"] == status(finished)["best"]
    assert status(folder / "round1")["trials"] == status(finished.parent / "study" / "round1")["trials"]
    list(tune(locate(folder)))
    with contextlib.closing(sqlite3.connect(folder / "study.db")) as database:
        names = {name for (name,) in database.execute("SELECT study_name FROM studies")}
    assert names == {"study.round1", "study.round2", "study.round2.warm_start"}


def test_a_round_is_not_run_alone(finished: Path) -> None:
    with pytest.raises(InputError, match=r"this is round 1 of .*study; run that: `meshtune tune"):
        list(tune(locate(finished.parent / "study" / "round1")))


def test_check_looks_at_all_rounds(tmp_path: Path) -> None:
    path = two_rounds(tmp_path)
    text, facts = check(path)
    assert [each["config"]["budget"]["trials"] for each in facts["rounds"]] == [6, 9]
    assert "warm start what round1 will have found" in text
    assert "the best 4 of them are evaluated again" in text
    assert not (tmp_path / "study").exists()
    broken = path.read_text().replace("baseline: {x: 1.0, y: 0.5, k: 3}\n", "")
    broken = broken.replace(f"[{sys.executable}, program.py", "[no-such-program, program.py")
    path.write_text(broken.replace("warm_start: {values: as_is}", "sampler: {name: mads, options: {n_startup: many}}"))
    with pytest.raises(InputError) as raised:
        check(path)
    assert [fault.key for fault in raised.value.faults] == ["objective.command.0"]  # once, though of both rounds


def test_what_is_said_of_the_agreement() -> None:
    found = {"rounds": [2, 3], "points": 9, "rho": 0.9, "low": 0.5, "high": 0.98}
    assert "round 2 stands for round 3" in agreement(found)
    assert "too alike, to tell" in agreement({**found, "low": -0.1})
    assert "do not trust it" in agreement({**found, "rho": -0.9, "low": -0.98, "high": -0.5})
    assert "of 1 point in rounds 2 and 3: too few" in agreement({**found, "points": 1, "rho": None, "low": None})
    assert "rank correlation +0.90 of 3 points" in agreement({**found, "points": 3, "low": None, "high": None})


@pytest.mark.slow
def test_two_rounds_of_a_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Few rows for one epoch, then all of them: smaller parts of the same sides, and an adapter to take away."""
    path = lora_study(tmp_path / "lora", tiny_model_folder)
    text = path.read_text().replace("validation: 10, test: 10}", "validation: 0.2, test: 0.2}")
    text = text.replace("metrics: {exact: {file: metrics.py}}\n", "").replace("rows: 4, max", "rows: 1, max")
    path.write_text(
        text + "rounds:\n"
        "  - {data: {rows: 30}, training: {epochs: 1}, budget: {trials: 3}}\n"
        "  - {training: {epochs: 2}, budget: {trials: 4}, warm_start: {values: shifted, again: 2}}\n"
    )
    ended = run(path, "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert [each["trials"]["proposed"] for each in told["rounds"]] == [3, 4]
    assert told["agreement"][0]["points"] >= 2
    few, all_of_them = (tmp_path / "lora" / "study" / name / "data" for name in ("round1", "round2"))
    for side in ORIGINAL_SIDES:
        lines = [{each.line for each in original_rows(folder, side)} for folder in (few, all_of_them)]
        assert (len(lines[0]), len(lines[1])) == (6, 12)
        assert lines[0] < lines[1]
    assert len(told["all"][0]["losses"]) == 2
    study = meshtune.load(path)
    assert study.best.adapter == tmp_path / "lora" / "study" / told["best"]["adapter"]
    assert (study.export(tmp_path / "out")["folder"], study.best.test_loss) == (
        str(tmp_path / "out"),
        told["best"]["test_loss"],
    )
    assert study.best.test_loss is not None
