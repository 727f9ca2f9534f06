"""The contract of a worker (`meshtune.workers.seam.Worker`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtune.trial import Ending, Outcome, Progress, Request
from meshtune.workers.seam import Worker


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
            batch, waiting = waiting[: worker.free()], waiting[worker.free() :]
            worker.submit(batch)
            outcomes += collect(worker, 1)
        assert sorted(outcome.trial for outcome in outcomes) == list(range(6))
        assert all(outcome.ending is Ending.COMPLETE and outcome.loss == outcome.trial**2 for outcome in outcomes)
        assert worker.events(0.2) == []

    def test_places_are_taken_and_given_back(self, worker: Worker) -> None:
        """`free` falls by one a request and rises with its outcome."""
        free = worker.free()
        worker.submit([Request(0, {"x": 1.0, "do": "answer"}, seed=0)])
        assert worker.free() == free - 1
        collect(worker, 1)
        assert worker.free() == free

    def test_a_death_is_an_outcome_and_the_worker_goes_on(self, worker: Worker) -> None:
        """The dead process's trial crashed, with words; the place is there again."""
        free = worker.free()
        worker.submit([Request(0, {"x": 1.0, "do": "die"}, seed=0, attempt=2)])
        (outcome,) = collect(worker, 1)
        assert (outcome.trial, outcome.attempt, outcome.ending) == (0, 2, Ending.CRASHED)
        assert outcome.message
        assert worker.free() == free
        worker.submit([Request(1, {"x": 3.0, "do": "answer"}, seed=0)])
        assert collect(worker, 1)[0].loss == 9.0

    def test_a_stopped_request_has_no_outcome(self, worker: Worker) -> None:
        """Its place is free again, and other requests are not touched."""
        free = worker.free()
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        worker.events(1.0)
        worker.stop([0])
        assert worker.free() == free
        worker.submit([Request(1, {"x": 2.0, "do": "answer"}, seed=0)])
        assert [outcome.trial for outcome in collect(worker, 1)] == [1]

    def test_what_is_suspended_has_no_outcome_and_what_had_ended_has_one(self, worker: Worker) -> None:
        """And it does not wait for what cannot save itself."""
        worker.submit([Request(0, {"x": 1.0, "do": "sleep"}, seed=0)])
        worker.submit([Request(1, {"x": 2.0, "do": "answer"}, seed=0)])
        early: list[Outcome] = []
        deadline = time.monotonic() + 60
        while not early and time.monotonic() < deadline:
            early += [event for event in worker.events(0.5) if isinstance(event, Outcome)]
        begun = time.monotonic()
        worker.suspend(50)
        assert time.monotonic() - begun < 40
        assert [outcome.trial for outcome in early] == [1]
        assert not [event for event in worker.events(0) if isinstance(event, Outcome)]

    def test_with_nothing_running_nothing_comes(self, worker: Worker) -> None:
        """And `events` returns."""
        assert worker.events(0.1) == []


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
