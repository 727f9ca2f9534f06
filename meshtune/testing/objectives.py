"""The contracts of an objective (`meshtune.objectives.build.Objective`), and of one that can be stopped early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from meshtune.objectives.build import Asking, Objective
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Progress, Request, Rung, Verdict, from_json, to_json


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

    # -- where a person has it stopped

    def test_stopped_between_rungs_it_ends_there_and_the_others_go_on(self, tmp_path: Path) -> None:
        """At its next step, with the last that was measured of it, and with its state: promoted it ends as a whole."""
        whole, _ = self.measured(tmp_path)
        objective, ended, steps = self.make(tmp_path / "stopped"), list[Outcome](), list[int]()
        assert isinstance(objective, Asking)
        for event in objective.evaluate([self.good(0), self.good(1)]):
            if isinstance(event, Progress) and event.trial == 0 and event.step:
                steps.append(event.step)
                objective.decide(Decision(1, 1, ((0, AT_ONCE, Verdict.STOPS),)))  # of another pack
                objective.decide(Decision(0, 1, ((0, AT_ONCE, Verdict.STOPS),)))
            ended += [event] if isinstance(event, Outcome) else []
        stopped, other = sorted(ended, key=lambda outcome: outcome.trial)
        assert (stopped.ending, stopped.adapter, stopped.rungs) == (Ending.STOPPED_EARLY, None, ())
        assert stopped.loss == (stopped.losses[-1] if stopped.losses else None)
        assert stopped.tokens < whole.tokens
        assert (other.ending, other.tokens) == (Ending.COMPLETE, whole.tokens)
        (promoted,) = outcomes(self.make(tmp_path / "stopped"), [replace(self.good(0), promote=True, attempt=2)])
        assert (promoted.ending, promoted.losses, promoted.tokens) == (Ending.COMPLETE, whole.losses, whole.tokens)

    def test_what_had_been_stopped_takes_no_part_when_its_pack_runs_again(self, tmp_path: Path) -> None:
        """It leaves with the first step, and the others are as they would have been beside it."""
        whole, _ = self.measured(tmp_path)
        requests = [replace(self.good(0), decided=((AT_ONCE, Verdict.STOPS),)), self.good(1)]
        stopped, other = sorted(outcomes(self.make(tmp_path), requests), key=lambda outcome: outcome.trial)
        assert (stopped.ending, stopped.loss, stopped.losses) == (Ending.STOPPED_EARLY, None, ())
        assert stopped.tokens < whole.tokens
        assert (other.ending, other.tokens) == (Ending.COMPLETE, whole.tokens)

    # -- where it asks

    def asking(self, with_rungs: Outcome, *trials: int) -> list[Request]:
        """Requests that ask at these rungs."""
        rungs = tuple((tokens, None) for tokens, _ in with_rungs.rungs)
        return [replace(self.good(trial), thresholds=rungs, asks=True) for trial in trials]

    def test_what_is_decided_at_a_rung_is_done(self, tmp_path: Path) -> None:
        """As by thresholds that say the same; repeated with what was decided it asks nothing."""
        _, with_rungs = self.measured(tmp_path)
        (first, _), (second, _) = with_rungs.rungs
        requests = self.asking(with_rungs, 0, 1)
        at = [replace(requests[0], asks=False, thresholds=((first, None), (second, -1e9)))]
        wanted = outcomes(self.make(tmp_path / "wanted"), [*at, replace(requests[1], asks=False)])
        verdicts = {(0, first): Verdict.GOES_ON, (0, second): Verdict.STOPS}
        found, rungs = decided(self.make(tmp_path / "asked"), requests, verdicts)
        assert plain(found) == plain(wanted)
        assert sorted((trial, tokens) for rung in rungs for trial, tokens, _ in rung.losses) == [
            (trial, tokens) for trial in (0, 1) for tokens in (first, second)
        ]
        assert {(rung.pack, rung.attempt) for rung in rungs} == {(0, 1)}
        assert all(from_json(to_json(rung)) == rung for rung in rungs)
        known = {trial: tuple((t, v) for (n, t), v in verdicts.items() if n == trial) for trial in (0, 1)}
        known[1] = ((first, Verdict.GOES_ON), (second, Verdict.GOES_ON))
        again = [replace(each, attempt=2, decided=known[each.trial]) for each in requests]
        repeated, rungs = decided(self.make(tmp_path / "again"), again, {})
        assert [replace(each, attempt=1) for each in plain(repeated)] == plain(wanted)
        assert rungs == []

    def test_without_an_answer_it_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer to another attempt is none; one that comes late is followed then."""
        monkeypatch.setattr("meshtune.objectives.decisions.DECISION_SECONDS", 0.0)
        plain_, with_rungs = self.measured(tmp_path)
        (request,) = self.asking(with_rungs, 0)
        late: list[Rung] = []
        objective, ended = self.make(tmp_path / "asked"), list[Outcome]()
        assert isinstance(objective, Asking)
        for event in objective.evaluate([request]):
            if isinstance(event, Rung):
                objective.decide(answer(replace(event, attempt=event.attempt + 1), {}, otherwise=Verdict.STOPS))
                if late:
                    objective.decide(answer(late[0], {}, otherwise=Verdict.STOPS))
                late.append(event)
            elif isinstance(event, Outcome):
                ended.append(event)
        (outcome,) = ended
        assert (outcome.ending, outcome.rungs) == (Ending.STOPPED_EARLY, with_rungs.rungs)
        assert with_rungs.rungs[1][0] <= outcome.tokens <= plain_.tokens
        objective.decide(answer(late[1], {}))  # to what is over
        assert not objective.join(0, self.good(5))

    def test_what_joins_has_an_outcome_of_its_own(self, tmp_path: Path) -> None:
        """At a rung, in the place of one that stops; repeated from the beginning it joins at the same place."""
        _, with_rungs = self.measured(tmp_path)
        first = with_rungs.rungs[0][0]
        requests = self.asking(with_rungs, 0, 1)
        joiner = replace(self.good(7), joins=(0, first))
        verdicts = {(0, first): Verdict.STOPS}
        found, _ = decided(self.make(tmp_path / "asked"), requests, verdicts, joins={(0, first): joiner})
        ended = {outcome.trial: outcome for outcome in found}
        assert {trial: outcome.ending for trial, outcome in ended.items()} == {
            0: Ending.STOPPED_EARLY,
            1: Ending.COMPLETE,
            7: Ending.COMPLETE,
        }
        assert len(found) == 3
        assert ended[7].loss == pytest.approx(with_rungs.loss, abs=1e-4)
        again, _ = decided(self.make(tmp_path / "again"), [*requests, joiner], verdicts)
        assert sorted(plain(again), key=lambda outcome: outcome.trial) == sorted(
            plain(found), key=lambda outcome: outcome.trial
        )

    def test_suspended_while_it_waits(self, tmp_path: Path) -> None:
        """Gone on with elsewhere it asks again, and ends as one that was not."""
        _, with_rungs = self.measured(tmp_path)
        requests = self.asking(with_rungs, 0, 1)
        verdicts = {(1, with_rungs.rungs[1][0]): Verdict.STOPS}
        whole, rungs = decided(self.make(tmp_path / "whole"), requests, verdicts)
        objective, asked, ended = self.make(tmp_path / "asked"), 0, list[Outcome]()
        assert isinstance(objective, Asking)
        for event in objective.evaluate(requests):
            ended += [event] if isinstance(event, Outcome) else []
            if isinstance(event, Rung):
                asked += 1
                if asked == len(rungs):
                    objective.suspend()
                else:
                    objective.decide(answer(event, verdicts))
        assert len(ended) < 2
        again, _ = decided(self.make(tmp_path / "asked"), requests, verdicts)
        assert sorted(plain(again), key=lambda outcome: outcome.trial) == sorted(
            plain(whole), key=lambda outcome: outcome.trial
        )

    def in_pieces(self, folder: Path, request: Request) -> Outcome:
        """The outcome of a request that is suspended at the first loss beyond those before."""
        known = 0
        while True:
            objective, found = self.make(folder), 0
            for event in objective.evaluate([request]):
                if isinstance(event, Outcome):
                    return event
                if isinstance(event, Progress):
                    found += event.rung_loss is not None or event.validation_loss is not None
                if found > known:
                    objective.suspend()
            assert found > known
            known = found


def outcomes(objective: Objective, requests: Sequence[Request]) -> list[Outcome]:
    """The outcomes alone, as they come."""
    return [event for event in objective.evaluate(requests) if isinstance(event, Outcome)]


def answer(rung: Rung, verdicts: Mapping[tuple[int, int], Verdict], otherwise: Verdict = Verdict.GOES_ON) -> Decision:
    """The answer to a rung: the verdict of each (trial, tokens)."""
    found = ((trial, tokens, verdicts.get((trial, tokens), otherwise)) for trial, tokens, _ in rung.losses)
    return Decision(rung.pack, rung.attempt, tuple(found))


def decided(
    objective: Objective,
    requests: Sequence[Request],
    verdicts: Mapping[tuple[int, int], Verdict],
    joins: Mapping[tuple[int, int], Request] = MappingProxyType({}),
) -> tuple[list[Outcome], list[Rung]]:
    """The outcomes, and the rungs that were asked about; what joins does so before the answer."""
    assert isinstance(objective, Asking)
    ended, rungs = list[Outcome](), list[Rung]()
    for event in objective.evaluate(requests):
        if isinstance(event, Outcome):
            ended.append(event)
        if isinstance(event, Rung):
            rungs.append(event)
            for trial, tokens, _ in event.losses:
                if (trial, tokens) in joins:
                    assert objective.join(event.pack, joins[trial, tokens])
            objective.decide(answer(event, verdicts))
    return ended, rungs


def plain(found: Sequence[Outcome]) -> list[Outcome]:
    """Without what comes from the clock, and from what else the process has done."""
    return [replace(outcome, seconds=0.0, peak_memory=None) for outcome in found]
