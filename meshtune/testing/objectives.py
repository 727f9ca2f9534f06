"""The contracts of an objective (`meshtune.objectives.build.Objective`), and of one that can be stopped early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

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
        ended = [event for event in (first, *events) if isinstance(event, Outcome)]
        assert len(ended) < 2
        both = [self.good(0), self.good(1)]
        again = [event for event in self.make(tmp_path).evaluate(both) if isinstance(event, Outcome)]
        whole = [event for event in self.make(tmp_path / "whole").evaluate(both) if isinstance(event, Outcome)]
        assert [(outcome.loss, outcome.losses) for outcome in again] == [
            (outcome.loss, outcome.losses) for outcome in whole
        ]


class StoppingContract(ABC):
    """Subclass it and make an objective, and a request that it completes, in five optimizer steps or more."""

    @abstractmethod
    def make(self, folder: Path) -> Objective:
        """An objective that keeps its files in `folder`."""

    @abstractmethod
    def good(self, trial: int) -> Request:
        """A request that ends as `complete`."""

    def measured(self, folder: Path, trial: int = 0) -> tuple[Outcome, Outcome]:
        """The outcome of a request alone, and of the same with two rungs at which it goes on in any case."""
        (plain,) = outcomes(self.make(folder / "plain"), [self.good(trial)])
        rungs = tuple((round(share * plain.tokens), None) for share in (0.4, 0.7))
        (with_rungs,) = outcomes(self.make(folder / "rungs"), [replace(self.good(trial), thresholds=rungs)])
        return plain, with_rungs

    def stopping(self, with_rungs: Outcome, trial: int = 0) -> Request:
        """A request that ends at the second of these rungs, whose loss is above its threshold by very little."""
        (first, _), (second, loss) = with_rungs.rungs
        return replace(self.good(trial), thresholds=((first, 1e9), (second, loss - 1e-3)))

    def test_rungs_are_reported_and_change_nothing(self, tmp_path: Path) -> None:
        """Losses of two rungs, and otherwise the outcome of a request without any."""
        plain, with_rungs = self.measured(tmp_path)
        assert len(with_rungs.rungs) == 2
        assert (with_rungs.ending, with_rungs.loss, with_rungs.losses) == (Ending.COMPLETE, plain.loss, plain.losses)
        assert with_rungs.training_losses == plain.training_losses
        assert (with_rungs.tokens, plain.rungs) == (plain.tokens, ())

    def test_it_ends_above_a_threshold_and_the_others_go_on(self, tmp_path: Path) -> None:
        """With the loss of that rung, without an adapter, and with a progress that has it."""
        plain, with_rungs = self.measured(tmp_path)
        requests = [self.stopping(with_rungs), replace(self.good(1), thresholds=((with_rungs.rungs[0][0], None),))]
        events = list(self.make(tmp_path).evaluate(requests))
        stopped, other = sorted((e for e in events if isinstance(e, Outcome)), key=lambda outcome: outcome.trial)
        assert (stopped.ending, stopped.adapter) == (Ending.STOPPED_EARLY, None)
        assert [tokens for tokens, _ in stopped.rungs] == [tokens for tokens, _ in with_rungs.rungs]
        assert [loss for _, loss in stopped.rungs] == pytest.approx([loss for _, loss in with_rungs.rungs], abs=1e-4)
        assert stopped.loss == stopped.rungs[-1][1]
        assert with_rungs.rungs[1][0] <= stopped.tokens < plain.tokens
        assert other.ending is Ending.COMPLETE
        assert [rung for rung, _ in other.rungs] == [with_rungs.rungs[0][0]]
        seen = [e.rung_loss for e in events if isinstance(e, Progress) and e.trial == 0 and e.rung_loss is not None]
        assert seen == [loss for _, loss in stopped.rungs]
        assert all(from_json(to_json(event)) == event for event in events)

    def test_promoted_it_ends_as_if_it_had_never_been_stopped(self, tmp_path: Path) -> None:
        """In another objective over the same folder; also where what it had kept is gone."""
        _, with_rungs = self.measured(tmp_path)
        request = self.stopping(with_rungs)
        (stopped,) = outcomes(self.make(tmp_path), [request])
        assert stopped.ending is Ending.STOPPED_EARLY
        for _ in range(2):  # the first takes away what was kept
            (ended,) = outcomes(self.make(tmp_path), [replace(request, promote=True, attempt=2)])
            assert (ended.ending, ended.loss, ended.losses) == (Ending.COMPLETE, with_rungs.loss, with_rungs.losses)
            assert (ended.rungs, ended.training_losses) == (with_rungs.rungs, with_rungs.training_losses)
            assert (ended.tokens, ended.adapter is None) == (with_rungs.tokens, with_rungs.adapter is None)

    def test_stopped_and_promoted_in_pieces(self, tmp_path: Path) -> None:
        """Suspended at each loss, and gone on with elsewhere."""
        _, with_rungs = self.measured(tmp_path)
        request = self.stopping(with_rungs)
        stopped = self.in_pieces(tmp_path, request)
        assert (stopped.loss, stopped.rungs) == (with_rungs.rungs[-1][1], with_rungs.rungs)
        (again,) = outcomes(self.make(tmp_path), [request])  # as if the answer had been lost
        assert replace(again, seconds=0.0, peak_memory=0) == replace(stopped, seconds=0.0, peak_memory=0)
        ended = self.in_pieces(tmp_path, replace(request, promote=True, attempt=2))
        assert (ended.ending, ended.loss, ended.losses) == (Ending.COMPLETE, with_rungs.loss, with_rungs.losses)
        assert ended.rungs == with_rungs.rungs

    def in_pieces(self, folder: Path, request: Request) -> Outcome:
        """The outcome of a request that is suspended at the first loss beyond those before."""
        known = 0
        while True:
            objective, found = self.make(folder), 0
            for event in objective.evaluate([request]):
                if isinstance(event, Outcome):
                    return event
                found += event.rung_loss is not None or event.validation_loss is not None
                if found > known:
                    objective.suspend()
            assert found > known
            known = found


def outcomes(objective: Objective, requests: Sequence[Request]) -> list[Outcome]:
    """The outcomes alone, as they come."""
    return [event for event in objective.evaluate(requests) if isinstance(event, Outcome)]
