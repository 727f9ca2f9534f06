"""Which candidates of a study are scored."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.export.chosen import choose
from meshtune.finalists.candidates import ListedCandidate, candidates
from meshtune.plan.locate import existing
from meshtune.record.log import Record
from tests.finalists.made import told_study


def listed(path: Path, best: int, worst: int, named: Sequence[int]) -> list[ListedCandidate]:
    study = existing(path).latest
    return candidates(path, study, Record(study.url, study.name), best, worst, named)


def test_where_no_trial_keeps_the_constraints_they_are_scored_all_the_same(tmp_path: Path) -> None:
    study = told_study(tmp_path, [(1.5, 5), (1.2, 7), (1.4, 6)])
    found = listed(study, 1, 1, ())
    assert [(one.name, one.rank) for one in found] == [("trial 0", 1), ("trial 1", 3), ("untuned", None)]
    assert [one.name for one in listed(study, 1, 0, [2])] == ["trial 0", "trial 2", "untuned"]
    with pytest.raises(InputError, match="has no best: none of 3 complete trials keeps all constraints"):
        choose(study)


def test_a_study_without_complete_trials_or_adapters_has_no_candidates(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete trial, so it has no best: no trial has begun"):
        listed(told_study(tmp_path, []), 5, 0, ())
    other = tmp_path / "other"
    other.mkdir()
    program = f"objective: {{command: [{sys.executable}]}}\nspace: {{rank: {{low: 1, high: 9, integer: true}}}}\n"
    for named in ((), (0,)):
        with pytest.raises(InputError, match="meshtune has no adapter of it"):
            listed(told_study(other, [(1.5, 1)], program) if not named else other / "study", 5, 0, named)
