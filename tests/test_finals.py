"""What is measured beside the trials ends early where it is asked to, and is made up for by the next run."""

from meshtune.budget import Stop
from meshtune.finals import gather
from meshtune.study import Running, StudyEvent
from meshtune.trial import Outcome, Request
from tests.test_study import AtOnce, Suspended

REQUESTS = [Request(number, {"x": 0.5}, seed=0, measure="test") for number in (-1, -2, -3)]


def outcomes(events: list[StudyEvent | Outcome]) -> list[int]:
    assert all(isinstance(event, Outcome | Running) for event in events)
    return [event.trial for event in events if isinstance(event, Outcome)]


def test_all_are_measured() -> None:
    assert sorted(outcomes(list(gather(AtOnce(), REQUESTS, 3)))) == [-3, -2, -1]


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
