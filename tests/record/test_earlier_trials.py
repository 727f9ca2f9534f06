"""Points of another study in this study's space, and their place in the record."""

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from meshtune.config import presets
from meshtune.config.sections import Interval
from meshtune.record.earlier_trials import earlier_in, keep, kept
from meshtune.record.log import WARM_START, Record
from meshtune.record.storage import open_storage
from meshtune.record.trials import RecordedTrial
from meshtune.trial import Ending, Outcome

WIDE, NARROW = presets.tribes2024(), presets.tribes2024(128)


def trial(number: int, loss: float | None, ending: Ending = Ending.COMPLETE, **hyperparameters: Any) -> RecordedTrial:
    point = {"rank": 8, "alpha": 32, "dropout": 0.1, "learning_rate": 1e-5, **hyperparameters}
    recorded = RecordedTrial(number, {}, point, "search", 0, 0, 0)
    return dataclasses.replace(recorded, outcome=Outcome(number, 1, ending, loss=loss), order=number)


def plain(trials: Sequence[FrozenTrial]) -> list[tuple[Any, ...]]:
    """All of a trial that a sampler may read, its own number included."""
    return [
        (t.number, t.state, repr(t.values), repr(t.params), t.distributions, t.user_attrs, t.constraints)
        for t in trials
    ]


LOSS = 0.1 + 0.2  # needs all 17 digits
SOME = [
    trial(0, LOSS),
    trial(1, None, Ending.DIVERGED, rank=4),
    trial(2, 2.0, rank=512),
    trial(3, 0.5, Ending.STOPPED_EARLY),
    trial(4, 1.5, rank=256, alpha=65),
    trial(5, None, Ending.CRASHED, dropout=0),
    trial(6, 1.0, rank=128, learning_rate=3.3e-4),
    dataclasses.replace(trial(7, None, rank=4), outcome=None, order=None),
]


def test_finished_trials_inside_the_space_are_known() -> None:
    known = earlier_in(NARROW, SOME)
    assert [t.user_attrs["trial"] for t in known.trials] == [0, 1, 5, 6]
    assert [t.state.name for t in known.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert known.complete == 2
    assert known.trials[0].value == LOSS
    assert [t.constraints for t in known.trials] == [{"ending": 0.0}, {}, {}, {"ending": 0.0}]
    assert known.trials[3].params == {"rank_log2": 7, "dropout_index": 4, "alpha": 32, "learning_rate": 3.3e-4}
    assert len(known.outside) == 2
    assert known.why_outside() == "`rank` in 2 of 2: 512 is outside 4 to 128; `alpha` in 1 of 2: 65 is outside 1 to 64"


def test_a_point_is_found_by_its_hyperparameters_however_they_are_encoded() -> None:
    """By alpha and learning rate there, by scale and step here."""
    known = earlier_in(presets.recommended(), [trial(0, 1.0, rank=16, alpha=32, dropout=0, learning_rate=2e-4)])
    (params,) = [t.params for t in known.trials]
    assert params == pytest.approx({"rank_log2": 4, "scale_log2": 1, "dropout_index": 0, "step": 6.4e-3})
    decoded = presets.recommended().decode(params)
    assert decoded == pytest.approx({"rank": 16, "alpha": 32, "dropout": 0, "learning_rate": 2e-4})


def test_points_of_other_hyperparameters_are_outside() -> None:
    command = presets.build({"x": Interval(low=0, high=1)}, lora=False)
    known = earlier_in(command, SOME[:1])
    assert not known.trials
    assert {fault.key for fault in known.outside[0]} == {"rank", "alpha", "dropout", "learning_rate", "x"}
    other = RecordedTrial(0, {}, {"x": 0.5}, "search", 0, 0, 0, outcome=Outcome(0, 1, Ending.COMPLETE, loss=1.0))
    assert not earlier_in(WIDE, [other]).trials
    assert len(earlier_in(command, [other]).trials) == 1


def opened(folder: Path, fixed: dict[str, Any] | None = None) -> Record:
    return Record(f"sqlite:///{folder / 'study.db'}", "study", NARROW, fixed={"a": 1} if fixed is None else fixed)


def test_the_record_keeps_them_exactly_and_counts_none_as_a_trial(tmp_path: Path) -> None:
    known = earlier_in(NARROW, SOME).trials
    opened(tmp_path).begin_with(known, {"complete": 2})
    record = opened(tmp_path)
    assert plain(record.earlier_trials) == plain(known)
    assert record.notes[WARM_START] == {"complete": 2}
    assert (record.trials, record.mirror.trials, record.best, record.complete) == ([], [], None, [])
    record.begin_with(known[:1], {"complete": 1})  # it has begun: nothing changes
    assert plain(opened(tmp_path).earlier_trials) == plain(known)
    assert opened(tmp_path).notes[WARM_START] == {"complete": 2}


def test_a_study_without_them_has_none(tmp_path: Path) -> None:
    assert opened(tmp_path).earlier_trials == ()
    names = optuna.get_all_study_names(open_storage(f"sqlite:///{tmp_path / 'study.db'}"))
    assert names == ["study"]


def _keep_and_die(folder: str, trials: int) -> None:
    record = opened(Path(folder))
    keep(record._storage, "study", earlier_in(NARROW, SOME).trials[:trials])
    os._exit(9)


@pytest.mark.parametrize("trials", [0, 1, 4])
def test_what_a_kill_leaves_of_them_is_made_anew(tmp_path: Path, trials: int) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_keep_and_die, args=(str(tmp_path), trials))
    child.start()
    child.join()
    assert child.exitcode == 9
    record = opened(tmp_path)
    assert record.earlier_trials == ()
    known = earlier_in(NARROW, SOME).trials
    record.begin_with(known, {})
    assert plain(opened(tmp_path).earlier_trials) == plain(known)


def test_optuna_opens_them_as_a_study_of_their_own(tmp_path: Path) -> None:
    opened(tmp_path).begin_with(earlier_in(NARROW, SOME).trials, {})
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.load_study(study_name="study.warm_start", storage=storage)
    assert study.best_value == LOSS
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 2
    assert plain(kept(storage, "study")) == plain(study.trials)
