"""The contract of a worker (`meshtune.workers.interface.Worker`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshtune.trial import Decision, Ending, Outcome, Progress, Request, Rung, Verdict
from meshtune.workers.interface import Worker


class WorkerContract(ABC):
    """Subclass it and make a worker over an objective that does what the hyperparameter `do` says.

    `do: "answer"` ends `complete` with loss `x` squared; `"sleep"` takes a minute; `"die"` kills its own process.
    """

    @abstractmethod
    def make(self, folder: Path) -> Worker:
        """A worker with at least two free places."""

    @pytest.fixture
    def worker(self, tmp_path: Path) -> Iterator[Worker]:
        """The worker, closed afterwards."""
        worker = self.make(tmp_path)
        yield worker
        worker.close()

    def test_every_request_has_exactly_one_outcome(self, worker: Worker) -> None:
        """More requests than places, handed over as places come free."""
        waiting = [Request(n, {"x": float(n), "do": "answer"}, seed=0) for n in range(6)]
        outcomes: list[Outcome] = []
        while len(outcomes) < 6:
            while waiting and worker.free():
                worker.submit([waiting.pop(0)])
            outcomes += collect(worker, 1)
        assert sorted(outcome.trial for outcome in outcomes) == list(range(6))
        assert all(outcome.ending is Ending.COMPLETE and outcome.loss == outcome.trial**2 for outcome in outcomes)
        assert worker.events(0.2) == []

    def test_places_are_taken_and_given_back(self, worker: Worker) -> None:
        """`free` falls by one a submission, however many requests it has, and rises once all have their outcomes."""
        free = worker.free()
        worker.submit([Request(number, {"x": float(number), "do": "answer"}, seed=0) for number in range(3)])
        assert worker.free() == free - 1
        assert {outcome.trial: outcome.loss for outcome in collect(worker, 3)} == {0: 0, 1: 1, 2: 4}
        assert worker.free() == free

    def test_a_death_is_an_outcome_and_the_worker_goes_on(self, worker: Worker) -> None:
        """What it had not answered yet has crashed, with words; the place is there again."""
        free = worker.free()
        does = ("answer", "die", "answer")
        worker.submit([Request(trial, {"x": 1.0, "do": do}, seed=0, attempt=2) for trial, do in enumerate(does)])
        answered, *crashed = collect(worker, 3)
        assert (answered.trial, answered.loss) == (0, 1.0)
        assert [(outcome.trial, outcome.attempt, outcome.ending) for outcome in crashed] == [
            (1, 2, Ending.CRASHED),
            (2, 2, Ending.CRASHED),
        ]
        assert all(outcome.message for outcome in crashed)
        assert worker.free() == free
        worker.submit([Request(3, {"x": 3.0, "do": "answer"}, seed=0)])
        assert collect(worker, 1)[0].loss == 9.0

    def test_a_suspended_request_has_no_outcome(self, worker: Worker) -> None:
        """It ends, asked or killed; what another worker makes of the same request is whole."""
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        worker.events(1.0)
        worker.suspend(20.0)
        assert not [event for event in worker.events(0.1) if isinstance(event, Outcome)]
        worker.close()

    def test_with_nothing_running_nothing_comes(self, worker: Worker) -> None:
        """And `events` returns."""
        assert worker.events(0.1) == []


class DecidingContract(ABC):
    """Subclass it and make a worker over an objective that asks at rungs, and requests that it trains as one pack."""

    @abstractmethod
    def make(self, folder: Path) -> Worker:
        """A worker with a free place."""

    @abstractmethod
    def request(self, trial: int) -> Request:
        """A request that completes, of 8 tokens and more, in five optimizer steps or more."""

    def asking(self, trial: int, **fields: Any) -> Request:
        """A request that asks after its first step."""
        return replace(self.request(trial), thresholds=((1, None),), asks=True, **fields)

    def test_what_is_decided_at_a_rung_is_done(self, tmp_path: Path) -> None:
        """One stops, one goes on, one joins; what is said to another attempt, or once all has ended, is dropped."""
        worker = self.make(tmp_path)
        try:
            worker.submit([self.asking(3, attempt=2), self.asking(4, attempt=2)])
            assert worker.free() == 0
            rung = rung_of(worker)
            assert (rung.pack, rung.attempt) == (3, 2)
            assert [(trial, tokens) for trial, tokens, _ in rung.losses] == [(3, 1), (4, 1)]
            verdicts = ((3, 1, Verdict.STOPS), (4, 1, Verdict.GOES_ON))
            turned = ((3, 1, Verdict.GOES_ON), (4, 1, Verdict.STOPS))
            worker.decide(Decision(3, 1, turned))  # of an attempt that is over
            worker.decide(Decision(4, 2, turned))  # of another pack
            assert not worker.join(3, self.request(7))
            assert worker.join(3, replace(self.request(7), attempt=2, joins=(3, 1)))
            worker.decide(Decision(3, 2, verdicts))
            ended = {outcome.trial: outcome for outcome in collect(worker, 3, seconds=180.0)}
            assert {trial: outcome.ending for trial, outcome in ended.items()} == {
                3: Ending.STOPPED_EARLY,
                4: Ending.COMPLETE,
                7: Ending.COMPLETE,
            }
            assert {outcome.attempt for outcome in ended.values()} == {2}
            assert ended[3].tokens < ended[4].tokens == ended[7].tokens
            assert worker.free() == 1
            worker.decide(Decision(3, 2, verdicts))
            assert not worker.join(3, replace(self.request(8), attempt=2))
            assert worker.events(0.5) == []
            worker.submit([self.asking(3, attempt=3, decided=((1, Verdict.STOPS),))])  # nothing is asked again
            (again,) = collect(worker, 1, seconds=180.0)
            assert (again.ending, again.rungs) == (Ending.STOPPED_EARLY, ended[3].rungs)
        finally:
            worker.close()


def rung_of(worker: Worker, seconds: float = 180.0) -> Rung:
    """The next rung that is asked about."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in worker.events(0.5):
            assert not isinstance(event, Outcome), event
            if isinstance(event, Rung):
                return event
    raise AssertionError("nothing was asked")


def collect(worker: Worker, count: int, seconds: float = 60.0) -> list[Outcome]:
    """Outcomes as they come, at least `count`; fails after `seconds`."""
    outcomes: list[Outcome] = []
    deadline = time.monotonic() + seconds
    while len(outcomes) < count:
        assert time.monotonic() < deadline, "no outcome came in time"
        events = worker.events(0.5)
        assert all(isinstance(event, Outcome | Progress) for event in events)
        outcomes += [event for event in events if isinstance(event, Outcome)]
    return outcomes
