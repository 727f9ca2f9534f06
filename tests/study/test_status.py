"""`status` of a record: what is marked in it, for people and as plain values."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from meshtune.cli.watch import print_status, print_trials
from meshtune.config import presets
from meshtune.record.decisions import Joined
from meshtune.record.log import Record
from meshtune.report import tables
from meshtune.report.write import report
from meshtune.study.status import status
from meshtune.trial import Ending, Outcome
from tests.finalists.made import told_study


def test_a_trial_that_did_harm_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is complete and has a loss, which is above that of the untuned model."""
    study = told_study(tmp_path, [(2.0, 1.0), (3.5, 1.0), (1.8, 1.0)])
    assert status(study)["worse_than_untuned"] == []  # nothing is known of the untuned model yet
    Record(f"sqlite:///{study / 'study.db'}", "study").note("untuned", {"loss": 3.0, "quantities": {}})
    found = status(study, trials=True)
    assert found["worse_than_untuned"] == [1]
    assert [trial["worse_than_untuned"] for trial in found["all"]] == [False, True, False]
    print_trials(found)
    lines = capsys.readouterr().out.splitlines()
    assert ["worse than untuned" in line for line in lines] == [False, True, False]
    print_status(found)
    hint = "1 of 3 complete trials is worse than the untuned model: lower the upper bound of the learning rate or"
    assert hint in capsys.readouterr().out
    _, rows = tables.trials(found)
    assert [row["cells"][2].text for row in rows] == ["complete", "complete, worse than untuned", "complete"]
    assert [row["failed"] for row in rows] == [False, True, False]


def test_what_learned_nothing_did_no_harm(tmp_path: Path) -> None:
    """As where the only step is one of the warm-up: the losses differ by the last digits of float32."""
    study = told_study(tmp_path, [(8.408172607421875, 1.0), (8.41, 1.0)])
    Record(f"sqlite:///{study / 'study.db'}", "study").note("untuned", {"loss": 8.408165825737846, "quantities": {}})
    assert status(study)["worse_than_untuned"] == [1]


def test_where_trials_were_stopped_and_what_they_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a trial; a promoted one saved nothing."""
    study = told_study(tmp_path, [(2.0, 1.0)])
    record = Record(f"sqlite:///{study / 'study.db'}", "study", presets.recommended(), fixed=None)
    first = len(record.trials)
    for _ in range(5):
        thresholds = ((1000, None), (2000, None))
        record.enqueue(presets.RECOMMENDED_BASELINE, origin="search", seed=0, thresholds=thresholds)
    record.join(Joined(first + 2, first, (first + 1, 1000)))
    whole = Outcome(
        first, 1, Ending.COMPLETE, loss=1.0, rungs=((1000, 3.0), (2000, 2.0)), tokens=4000, extra={"perplexity": 1.0}
    )
    record.tell(whole, elapsed=1.0)
    for number, rungs in ((first + 1, whole.rungs[:1]), (first + 2, whole.rungs), (first + 3, whole.rungs)):
        stopped = Outcome(number, 1, Ending.STOPPED_EARLY, loss=2.0, rungs=rungs, tokens=rungs[-1][0])
        record.tell(stopped, elapsed=2.0, value=2.0)
    record.promote(replace(whole, trial=first + 3))
    asked = Outcome(first + 4, 1, Ending.STOPPED_EARLY, tokens=500, message="stopped on request")
    record.tell(asked, elapsed=2.0, value=None)
    found = status(study, trials=True)
    assert found["tokens_saved"] == 3000 + 2000 + 3500
    print_trials(found)
    one, two, three, four = capsys.readouterr().out.splitlines()[first + 1 :]
    assert "stopped at rung 1 of 2, 3,000 tokens saved" in one
    assert f"joined pack {first} after 1,000 tokens of trial {first + 1}, stopped at rung 2 of 2, 2,000 tokens" in two
    assert "stopped at rung 2 of 2, promoted since" in three
    assert re.match(r"trial \d+ +stopped early +- ", four)
    assert four.split("  ")[-2:] == ["3,500 tokens saved", "stopped on request"]
    shown = {trial["trial"]: trial for trial in found["all"]}
    assert shown[first]["stopped_at"] is shown[first]["joined"] is None
    assert shown[first + 2]["stopped_at"] == {"rung": 2, "of": 2}
    assert shown[first + 2]["joined"] == {"pack": first, "trial": first + 1, "tokens": 1000}
    assert "stopped at rung 1 of 2" in Path(report([study])["page"]).read_text(encoding="utf-8")


def test_the_course_of_trials_that_froze(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the record alone: where they stopped, went on, stopped again, were dropped, or finished."""
    study = told_study(tmp_path, [(2.0, 1.0)])
    record = Record(f"sqlite:///{study / 'study.db'}", "study", presets.recommended(), fixed=None)
    first = len(record.trials)
    for _ in range(3):
        thresholds = ((1000, None), (2000, None))
        record.enqueue(presets.RECOMMENDED_BASELINE, origin="search", seed=0, thresholds=thresholds)
    rungs = ((1000, 3.0), (2000, 2.0))
    whole = Outcome(first, 1, Ending.COMPLETE, loss=1.0, rungs=rungs, tokens=4000, extra={"perplexity": 1.0})
    record.tell(whole, elapsed=1.0)
    for number in (first + 1, first + 2):
        stopped = Outcome(number, 1, Ending.STOPPED_EARLY, loss=3.0, rungs=rungs[:1], tokens=1000)
        record.tell(stopped, elapsed=2.0, value=2.0)
    ended = len(record.finished)
    for number in (first + 1, first + 2):
        record.thaw(number)
        record.freeze_again(Outcome(number, 2, Ending.STOPPED_EARLY, loss=2.0, rungs=rungs, tokens=2000))
    record.drop(first + 2)
    record.thaw(first + 1)
    record.join(Joined(first + 1, 0, (0, 1000), thaw=2))
    record.promote(replace(whole, trial=first + 1, loss=0.9), learnt=True)
    found = status(study, trials=True)
    print_trials(found)
    one, two = capsys.readouterr().out.splitlines()[first + 1 :]
    again = f"went on after {ended} trials"
    assert f"stopped at rung 1 of 2, {again}, stopped again at rung 2, {again} in pack 0, finished at 0.9000" in one
    assert f"stopped at rung 1 of 2, {again}, stopped again at rung 2, state dropped after {ended} trials, 2,000" in two
    assert (found["not_ended"], found["dropped"], found["promoted"]) == (1, [first + 2], [first + 1])
    shown = {trial["trial"]: trial for trial in found["all"]}
    assert shown[first]["after_stop"] == []
    assert shown[first + 2]["after_stop"] == [
        {"event": "went_on", "trials": ended, "pack": None},
        {"event": "froze", "rung": 2},
        {"event": "dropped", "trials": ended},
    ]
    page = Path(report([study])["page"]).read_text(encoding="utf-8")
    assert "finished at 0.9000" in page
    assert "risked: 1 stopped trial not trained to the end, which might have been better (1 cannot go on, for" in page


def test_who_was_given_up_is_said_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With why, and where to look: on screen, as plain values, and on the page, but on no public one."""
    study = told_study(tmp_path, [(2.0, 1.0)])
    record = Record(f"sqlite:///{study / 'study.db'}", "study", presets.recommended(), fixed=None)
    print_status(status(study))
    assert "crashed" not in capsys.readouterr().out
    whys = ["" if number == 5 else f"it broke (see {study}/logs/trial-{number}.err)" for number in range(8)]
    for number in range(1, 8):
        record.enqueue(presets.RECOMMENDED_BASELINE, origin="enqueued", seed=0)
        record.tell(Outcome(number, 3, Ending.CRASHED, message=whys[number], retry=number != 2), elapsed=1.0)
    found = status(study, trials=True)
    assert found["crashed"][0] == {"trial": 1, "attempts": 3, "message": whys[1]}
    assert [entry.get("would_again", False) for entry in found["crashed"]] == [False, True, *[False] * 5]
    print_status(found)
    *_, alike, other, last = capsys.readouterr().out.splitlines()
    assert alike == f"Trials 1, 2, 3, 4, 6 and 1 more crashed in 3 attempts and were given up: {whys[1]}"
    assert other == "Trial 5 crashed in 3 attempts and was given up: it left no words"
    assert f"{study.name}/logs; points of all trials: `meshtune status" in last
    for public in (False, True):
        page = Path(report([study], public=public)["page"]).read_text(encoding="utf-8")
        assert ("crashed in 3 attempts and were given up: it broke" in page) is not public
