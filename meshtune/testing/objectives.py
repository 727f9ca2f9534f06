"""The contract of an objective (`meshtune.objectives.build.Objective`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from meshtune.objectives.build import Objective
from meshtune.trial import Ending, Outcome, Progress, Request, from_json, to_json


class ObjectiveContract(ABC):
    """Subclass it and make an objective, a request that it completes, and one that it cannot."""

    @abstractmethod
    def make(self, folder: Path) -> Objective:
        """An objective that keeps its files in `folder`."""

    @abstractmethod
    def good(self, trial: int) -> Request:
        """A request that ends as `complete`."""

    @abstractmethod
    def bad(self, trial: int) -> Request:
        """A request that ends as anything else."""

    def test_each_request_has_exactly_one_outcome_of_its_own(self, tmp_path: Path) -> None:
        """Also where one of them fails: the others go on."""
        requests = [self.good(4), self.bad(5), self.good(6)]
        events = list(self.make(tmp_path).evaluate(requests))
        outcomes = {event.trial: event for event in events if isinstance(event, Outcome)}
        assert sum(isinstance(event, Outcome) for event in events) == 3
        assert {trial: outcome.ending is Ending.COMPLETE for trial, outcome in outcomes.items()} == {
            4: True,
            5: False,
            6: True,
        }
        assert all(isinstance(event, Outcome | Progress) for event in events)
        assert outcomes[4].loss is not None
        assert outcomes[5].loss is None
        assert outcomes[5].message

    def test_what_it_yields_crosses_as_json(self, tmp_path: Path) -> None:
        """Every event goes to JSON and back unchanged."""
        for event in self.make(tmp_path).evaluate([self.good(0), self.bad(1)]):
            assert from_json(to_json(event)) == event

    def test_the_same_request_gives_the_same_losses(self, tmp_path: Path) -> None:
        """Whatever was evaluated before; and so do the same requests together."""
        objective = self.make(tmp_path)

        def losses(*trials: int) -> dict[int, tuple[float | None, tuple[float, ...]]]:
            events = objective.evaluate([self.good(trial) for trial in trials])
            return {event.trial: (event.loss, event.losses) for event in events if isinstance(event, Outcome)}

        alone, together = losses(0), losses(1, 2, 3)
        assert losses(0) == alone
        assert losses(1, 2, 3) == together

    def test_closing_it_cancels_and_it_can_be_used_again(self, tmp_path: Path) -> None:
        """A cancelled evaluation leaves nothing behind that changes the next."""
        objective = self.make(tmp_path)
        events = objective.evaluate([self.good(0), self.good(1)])
        next(events)
        events.close()  # type: ignore[attr-defined]  # evaluate is a generator
        outcomes = [event for event in objective.evaluate([self.good(0)]) if isinstance(event, Outcome)]
        fresh = [event for event in self.make(tmp_path).evaluate([self.good(0)]) if isinstance(event, Outcome)]
        assert outcomes[0].loss == fresh[0].loss

    def test_a_suspended_request_has_no_outcome_and_goes_on_elsewhere(self, tmp_path: Path) -> None:
        """Another objective over the same folder gives it the outcome of one that was never suspended."""
        objective = self.make(tmp_path)
        events = objective.evaluate([self.good(0), self.good(1)])
        first = next(events)
        objective.suspend()
        told = [event for event in (first, *events) if isinstance(event, Outcome)]
        assert len(told) < 2
        both = [self.good(0), self.good(1)]
        again = [event for event in self.make(tmp_path).evaluate(both) if isinstance(event, Outcome)]
        whole = [event for event in self.make(tmp_path / "whole").evaluate(both) if isinstance(event, Outcome)]
        assert [(outcome.loss, outcome.losses) for outcome in again] == [
            (outcome.loss, outcome.losses) for outcome in whole
        ]
