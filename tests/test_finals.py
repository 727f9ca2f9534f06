"""What is measured beside the trials ends early where it is asked to, and is made up for by the next run."""

import pytest

from meshtune.budget import Stop
from meshtune.errors import InputError, MeshtuneError
from meshtune.finals import gather
from meshtune.study import Running, StudyEvent
from meshtune.trial import Ending, Outcome, Request
from tests.test_study import AtOnce, Suspended

REQUESTS = [Request(number, {"x": 0.5}, seed=0, measure="test") for number in (-1, -2, -3)]


def outcomes(events: list[StudyEvent | Outcome]) -> list[int]:
    assert all(isinstance(event, Outcome | Running) for event in events)
    return [event.trial for event in events if isinstance(event, Outcome)]


def test_all_are_measured() -> None:
    assert sorted(outcomes(list(gather(AtOnce(), REQUESTS, 3)))) == [-3, -2, -1]


def test_packs_are_submitted_together_and_what_crashes_in_one_alone() -> None:
    def crashing_together(request: Request) -> Outcome:
        alone = request.attempt > 1 or request.trial == -3
        return Outcome(request.trial, request.attempt, Ending.COMPLETE if alone else Ending.CRASHED, 0.5)

    worker = AtOnce(crashing_together)
    events = [event for event in gather(worker, REQUESTS, 3, sizes=[2, 1]) if isinstance(event, Outcome)]
    assert sorted(outcomes(list(events))) == [-3, -2, -1]
    assert [[request.trial for request in pack] for pack in worker.packs] == [[-1, -2], [-3], [-2], [-1]]


@pytest.mark.parametrize(
    ("retry", "attempts", "error", "words"),
    [
        (True, 3, MeshtuneError, "measuring on the test rows ended as crashed: boom. The evaluation failed"),
        (False, 1, InputError, "measuring on the test rows: boom$"),
    ],
)
def test_a_crash_is_tried_again_where_that_may_help(
    retry: bool, attempts: int, error: type[MeshtuneError], words: str
) -> None:
    def crashing(request: Request) -> Outcome:
        return Outcome(request.trial, request.attempt, Ending.CRASHED, message="boom", retry=retry)

    worker = AtOnce(crashing)
    with pytest.raises(error, match=words) as caught:
        list(gather(worker, REQUESTS[:1], 3))
    assert type(caught.value) is error
    assert len(worker.submitted) == attempts


def test_asked_to_stop_it_lets_what_runs_finish() -> None:
    asked = iter([None])
    worker = AtOnce()
    ended = outcomes(list(gather(worker, REQUESTS, 3, lambda: next(asked, Stop("asked to stop")))))
    assert sorted(ended) == [-2, -1]
    assert len(worker.submitted) == 2
    assert not list(gather(AtOnce(), REQUESTS, 3, lambda: Stop("asked to stop")))


def test_suspended_it_keeps_what_ended_in_time() -> None:
    asked = iter([None])
    worker = Suspended()
    assert outcomes(list(gather(worker, REQUESTS, 3, lambda: next(asked, Stop("SIGTERM came", 20))))) == [-1]
    assert worker.grace == 20
