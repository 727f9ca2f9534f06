"""`status` of a record: what is marked in it, for people and as plain values."""

from pathlib import Path

import pytest

from meshtune.cli.watch import print_status, print_trials
from meshtune.config import presets
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


def test_who_was_given_up_is_said_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With why, and where to look: on screen, as plain values, and on the page, but on no public one."""
    study = told_study(tmp_path, [(2.0, 1.0)])
    record = Record(f"sqlite:///{study / 'study.db'}", "study", presets.recommended(), fixed=None)
    print_status(status(study))
    assert "crashed" not in capsys.readouterr().out
    for number in range(1, 8):
        record.enqueue(presets.RECOMMENDED_BASELINE, origin="enqueued", seed=0)
        why = f"it broke (see {study}/logs/worker-0.log)"
        record.tell(Outcome(number, 3, Ending.CRASHED, message=why, retry=number != 2), elapsed=1.0)
    found = status(study, trials=True)
    assert found["crashed"][0] == {"trial": 1, "attempts": 3, "message": why}
    assert [entry.get("would_again", False) for entry in found["crashed"]] == [False, True, *[False] * 5]
    print_status(found)
    *_, first, second, third, fourth, fifth, more, last = capsys.readouterr().out.splitlines()
    assert first == f"trial 1 crashed in 3 attempts and was given up: {why}"
    assert [line[:7] for line in (second, third, fourth, fifth)] == [f"trial {n}" for n in (2, 3, 4, 5)]
    assert more == "and 2 more trials crashed"
    assert f"{study.name}/logs; points of all trials: `meshtune status" in last
    for public in (False, True):
        page = Path(report([study], public=public)["page"]).read_text(encoding="utf-8")
        assert ("trial 1 crashed in 3 attempts and was given up: it broke" in page) is not public
