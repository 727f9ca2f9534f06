"""Promotion: which stopped trials are trained on, that samplers learn nothing of it, and that it can be interrupted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtune.plan.budget import Stop
from meshtune.record.log import Record
from meshtune.record.requests import Action, Answer, ControlRequest
from meshtune.record.trials import RecordedTrial
from meshtune.study.finals import Runner
from meshtune.study.loop import Promoted, StudyEvent
from meshtune.study.promotion import promote
from meshtune.trial import Ending, Outcome, Request
from tests.stopping.test_decisions import early, log_of, loss_at, opened, trained
from tests.study.test_loop import AtOnce

RULES = early(rule="asha", promote=3)
NOISY = {"deviation": 10.0, "mean": 1.0, "count": 3, "trial": 0}  # so that any trial may be the best


def to_the_end(request: Request) -> Outcome:
    assert request.promote
    return Outcome(
        request.trial, request.attempt, Ending.COMPLETE, loss_at(request.hyperparameters, 1) - 10, tokens=1000
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study: points one after the other, as a search would have them evaluated."""
    folder = tmp_path_factory.mktemp("searched")
    record = opened(folder)
    for number in range(12):
        point = {"x": (7 * number % 16) / 8 - 1, "y": (5 * number % 16) / 8 - 1}
        trial = record.enqueue(point, origin="search", seed=0, thresholds=RULES.thresholds(record, point))
        record.tell(trained(trial.request(None, None)), elapsed=float(number))
    record.note("seed_noise", NOISY)
    return folder


@pytest.fixture
def record(searched: Path, tmp_path: Path) -> Record:
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    return opened(tmp_path)


def stopped(trial: RecordedTrial) -> bool:
    return trial.outcome is not None and trial.outcome.ending is Ending.STOPPED_EARLY


def events_of(record: Record, worker: AtOnce, stop: Callable[[], Stop | None] = lambda: None) -> list[StudyEvent]:
    return list(promote(record, RULES, Runner(worker, 0, None, 2, stop)))


def test_the_promising_are_trained_on_and_may_be_the_best(record: Record, tmp_path: Path) -> None:
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
    again.note("seed_noise", {**NOISY, "deviation": 0.0})  # what is learnt later changes nothing of what was decided
    assert not events_of(again, worker)


def test_what_a_person_asked_for_counts(record: Record, tmp_path: Path) -> None:
    """One that was finished on request is trained on, one that was stopped on request is not; also without rules."""
    first, *rest = RULES.promising(record)
    other = next(t.number for t in record.trials if t.number not in (first, *rest) and stopped(t))
    asked: list[tuple[int, Action]] = [(first, "stop"), (other, "stop"), (other, "finish")]
    for number, (trial, action) in enumerate(asked):
        record.answer(Answer(ControlRequest(f"{number}", action, "me", "today", trial), True, "", trial))
    worker = AtOnce(to_the_end)
    list(promote(record, None, Runner(worker, 0, None, 2)))
    assert [request.trial for request in worker.submitted] == [other]
    events_of(opened(tmp_path), worker)
    assert sorted(request.trial for request in worker.submitted) == sorted([other, *rest])


def test_an_interrupted_promotion_goes_on_with_the_same_trials(record: Record, tmp_path: Path) -> None:
    asked = iter([None])
    events_of(record, AtOnce(to_the_end, places=1), lambda: next(asked, Stop("asked to stop")))
    assert sum(trial.promoted is not None for trial in record.trials) == 1
    again = opened(tmp_path)
    events_of(again, AtOnce(to_the_end))
    assert {trial.number for trial in again.trials if trial.promoted} == set(RULES.promising(record))


def test_one_that_fails_is_recorded_and_not_tried_for_ever(record: Record, tmp_path: Path) -> None:
    def crashing(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom")

    worker = AtOnce(crashing)
    best = record.best
    events_of(record, worker)
    assert len(worker.submitted) == 2 * 3  # attempts x trials
    assert {t.final.ending for t in record.trials if t.promoted and t.final} == {Ending.CRASHED}
    assert record.best == best
    assert not events_of(opened(tmp_path), worker)


def test_nothing_is_done_where_none_was_stopped(tmp_path: Path) -> None:
    worker = AtOnce(to_the_end)
    assert not events_of(opened(tmp_path), worker)
    assert not worker.submitted
