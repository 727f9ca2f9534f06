"""Promotion: which stopped trials are trained on, that samplers learn nothing of it, and that it can be interrupted."""

from collections.abc import Callable
from pathlib import Path

from meshtune.budget import Stop
from meshtune.finals import How
from meshtune.promotion import promote
from meshtune.record import Record
from meshtune.study import Promoted, StudyEvent
from meshtune.trial import Ending, Outcome, Request
from tests.test_early_stopping import early, log_of, loss_at, opened, searched
from tests.test_study import AtOnce

RULES = early(rule="asha", promote=3)
NOISY = {"deviation": 10.0, "mean": 1.0, "count": 3, "trial": 0}  # so that any trial may be the best


def to_the_end(request: Request) -> Outcome:
    assert request.promote
    return Outcome(
        request.trial, request.attempt, Ending.COMPLETE, loss_at(request.hyperparameters, 1) - 10, tokens=1000
    )


def stopped_study(folder: Path) -> Record:
    record = searched(folder, RULES, 24)
    record.note("seed_noise", NOISY)
    return record


def events_of(record: Record, worker: AtOnce, stop: Callable[[], Stop | None] = lambda: None) -> list[StudyEvent]:
    return list(promote(record, RULES, How(worker, 0, None, 2, stop)))


def test_the_promising_are_trained_on_and_may_be_the_best(tmp_path: Path) -> None:
    record = stopped_study(tmp_path)
    before, tokens, elapsed = log_of(record), record.tokens, record.elapsed
    promising = RULES.promising(record)
    assert len(promising) == 3
    worker = AtOnce(to_the_end)
    told = [event.trial.number for event in events_of(record, worker) if isinstance(event, Promoted)]
    assert sorted(told) == sorted(promising)
    assert record.best is not None
    assert record.best.number in promising
    assert (record.tokens > tokens, record.elapsed > elapsed) == (True, True)
    again = opened(tmp_path)
    assert log_of(record) == log_of(again) == before  # what samplers see
    assert [trial.promoted for trial in again.trials] == [trial.promoted for trial in record.trials]
    assert again.elapsed == record.elapsed
    assert not events_of(again, worker)


def test_an_interrupted_promotion_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    record, asked = stopped_study(tmp_path), iter([None])
    events_of(record, AtOnce(to_the_end, places=1), lambda: next(asked, Stop("asked to stop")))
    assert sum(trial.promoted is not None for trial in record.trials) == 1
    again = opened(tmp_path)
    events_of(again, AtOnce(to_the_end))
    assert {trial.number for trial in again.trials if trial.promoted} == set(RULES.promising(record))


def test_one_that_fails_is_recorded_and_not_tried_for_ever(tmp_path: Path) -> None:
    def crashing(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")

    record, worker = stopped_study(tmp_path), AtOnce(crashing)
    best = record.best
    events_of(record, worker)
    assert len(worker.submitted) == 2 * 3  # attempts x trials
    assert {t.final.ending for t in record.trials if t.promoted and t.final} == {Ending.CRASHED}
    assert record.best == best
    assert not events_of(opened(tmp_path), worker)


def test_nothing_is_done_where_none_was_stopped(tmp_path: Path) -> None:
    worker = AtOnce(to_the_end)
    assert not events_of(searched(tmp_path, RULES, 4), worker)
    assert not worker.submitted
