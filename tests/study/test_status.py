"""`status` of a record: what is marked in it, for people and as plain values."""

from pathlib import Path

import pytest

from meshtune.cli.watch import print_status, print_trials
from meshtune.record.log import Record
from meshtune.report import tables
from meshtune.study.status import status
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
