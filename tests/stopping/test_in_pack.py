"""Early stopping inside a pack: what has been measured by then decides, and is in the record before it is followed."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshtune.config.sections import SamplerConfig
from meshtune.errors import LeaseLost
from meshtune.plan.budget import Budget, Stop
from meshtune.record.decisions import IN_PACK
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.loop import StudyEvent, run
from meshtune.trial import Decision, Ending, Event, Outcome, Request, Rung, Verdict
from meshtune.workers.planner import Packing
from tests.stopping.test_decisions import SPACE, START, TOKENS, early, log_of, loss_at, opened, stopped_of

Course = Callable[[Mapping[str, Any], float], float]  # the loss of a point at a share of its training


class Killed(Exception):
    """The coordinator is gone."""


class Pack:
    """Trials of one pack, trained in step along their curves."""

    def __init__(self, requests: Sequence[Request], loss_at: Course = loss_at):
        self.loss_at = loss_at
        self.name = (requests[0].trial, requests[0].attempt)
        self.left = {request.trial: request for request in requests}
        self.verdicts = {(r.trial, tokens): verdict for r in requests for tokens, verdict in r.decided}
        self.rungs = [tokens for tokens, _ in requests[0].thresholds]
        self.at = {request.trial: 0 for request in requests}
        self.held = {request.trial: request.joins for request in requests if request.joins}
        self.killed, self.steps = False, 0

    def events(self) -> list[Event]:
        """What is said up to the next question, or to the end."""
        said: list[Event] = []
        if self.killed:
            return [self.ended(trial, Ending.CRASHED, None) for trial in [*self.left]]
        while begun := [trial for trial in self.left if trial not in self.held] or [*self.left]:
            there = [(trial, self.rungs[self.at[trial]]) for trial in begun if self.at[trial] < len(self.rungs)]
            losses = {trial: self.loss_at(self.left[trial].hyperparameters, tokens / TOKENS) for trial, tokens in there}
            asked = [rung for rung in there if self.left[rung[0]].asks and rung not in self.verdicts]
            if asked:
                return [*said, Rung(*self.name, tuple((trial, tokens, losses[trial]) for trial, tokens in asked))]
            self.steps += 1
            ends = [trial for trial in begun if self.at[trial] == len(self.rungs)]
            said += [self.ended(t, Ending.COMPLETE, self.loss_at(self.left[t].hyperparameters, 1)) for t in ends]
            for trial, tokens in there:
                self.at[trial] += 1
                if self.verdicts.get((trial, tokens)) is Verdict.STOPS:
                    said.append(self.ended(trial, Ending.STOPPED_EARLY, losses[trial], tokens))
            self.held = {trial: after for trial, after in self.held.items() if after not in there}
            if said and self.left:
                break  # what is said may make another join
        return said

    def ended(self, trial: int, ending: Ending, loss: float | None, tokens: int = TOKENS) -> Outcome:
        request = self.left.pop(trial)
        rungs = [rung for rung in self.rungs if rung <= tokens]
        measured = tuple((rung, self.loss_at(request.hyperparameters, rung / TOKENS)) for rung in rungs)
        return Outcome(trial, request.attempt, ending, loss, rungs=measured, tokens=tokens)


class AtRungs:
    """Runs such packs. At the `number`-th question something is killed.

    `how`: "unsent": the coordinator, before the answer is sent; "sent": after that, before anything is done about it;
    "worker": the process, while it waits.
    """

    def __init__(self, places: int = 1, number: int = -1, how: str = "", loss_at: Course = loss_at):
        self.places, self.number, self.how, self.loss_at = places, number, how, loss_at
        self.packs: list[Pack] = []
        self.asked: list[Rung] = []
        self.joined: list[Request] = []
        self.submitted: list[list[int]] = []
        self.over = False  # whether nothing can join any more
        self.steps = 0  # segments between rungs that processes have worked through

    def free(self) -> int:
        return self.places - len(self.packs)

    def submit(self, requests: Sequence[Request]) -> None:
        self.packs.append(Pack(requests, self.loss_at))
        self.submitted.append([request.trial for request in requests])

    def events(self, timeout: float) -> list[Event]:
        said: list[Event] = []
        for pack in [*self.packs]:
            said += pack.events()
            self.steps, pack.steps = self.steps + pack.steps, 0
            if not pack.left:
                self.packs.remove(pack)
        self.asked += [event for event in said if isinstance(event, Rung)]
        return said

    def decide(self, decision: Decision) -> None:
        self.number -= 1
        if self.number == -1 and self.how in ("unsent", "sent"):
            raise Killed
        for pack in self.packs:
            if pack.name == (decision.pack, decision.attempt):
                pack.killed = self.number == -1 and self.how == "worker"
                pack.verdicts.update({(trial, tokens): verdict for trial, tokens, verdict in decision.verdicts})

    def join(self, pack: int, request: Request) -> bool:
        for each in self.packs:
            if each.name == (pack, request.attempt) and not self.over:
                each.left[request.trial], each.at[request.trial] = request, 0
                if request.joins and each.rungs[each.at[request.joins[0]] :][:1] == [request.joins[1]]:
                    each.held[request.trial] = request.joins  # the pack still stands there
                each.verdicts.update({(request.trial, tokens): verdict for tokens, verdict in request.decided})
                self.joined.append(request)
                return True
        return False

    def suspend(self, seconds: float) -> None:
        raise AssertionError("nobody stops it")

    def close(self) -> None:
        pass


def searched(
    folder: Path,
    trials: int,
    worker: AtRungs,
    *,
    sampler: str = "tpe",
    rules: EarlyStopping | None = None,
    packing: Packing | None = None,
    asynchronous: bool = False,
    watch: Callable[[Record, StudyEvent | None], None] = lambda record, event: None,
    fence: Callable[[Any], None] | None = None,
    **given: Any,
) -> Record:
    """A study in blocks of 8 in one pack a process, run to so many trials, or gone on with.

    `watch`: sees each event, and None before anything is recorded. `fence`: as `Record` has it.
    """
    record, rules = opened(folder, fence=fence), rules or early(rule="asha")
    if not record.trials:
        record.note(IN_PACK, True)
        record.enqueue(START, origin="baseline", seed=0, thresholds=rules.measured(START))
    made = build(
        SamplerConfig(name=sampler, asynchronous=asynchronous),  # type: ignore[arg-type]
        distributions(SPACE),
        x0=START,
        block_size=8,
        seed=0,
        pruned="value",
    )
    packing = packing or Packing(worker.places, 8, uneven=True)
    share = packing.share(8)
    given = {"seed": 0, "packing": packing, "share": share, "early": rules, **given}
    try:
        for event in run(record, made, worker, Budget(trials), **{"holding": lambda: watch(record, None), **given}):
            watch(record, event)
    finally:
        made.close()
    return record


@pytest.mark.parametrize(
    ("rule", "sampler"), [("asha", "batch-gp"), ("asha", "tpe"), ("median", "tpe"), ("curve", "tpe"), ("model", "tpe")]
)
def test_a_block_that_is_one_pack_is_stopped_by_what_it_measures(tmp_path: Path, rule: str, sampler: str) -> None:
    """None before three have finished; each with a value that a sampler can use."""
    record = searched(tmp_path, 25, AtRungs(), rules=early(rule=rule), sampler=sampler)
    stopped = stopped_of(record)
    assert len(stopped) >= 3
    assert record.tokens < 0.95 * 25 * TOKENS
    assert all(trial.value is not None and math.isfinite(trial.value) for trial in stopped)
    assert 0 not in {trial.block for trial in stopped}, "the first block finishes: before it nothing had"
    best = math.inf
    for trial in record.finished:
        best = min(best, trial.loss)
        assert trial.value is not None
        assert trial.value >= best or trial not in stopped
    assert record.trials[0].outcome is not None
    assert record.trials[0].outcome.ending is Ending.COMPLETE
    assert all(loss is None for trial in record.trials for _, loss in trial.thresholds)


def test_members_are_compared_with_each_other(tmp_path: Path) -> None:
    """Four at a rung that none was at before, of which the better half goes on; what is decided is decided once."""
    record = opened(tmp_path)
    rules = early(rule="asha", keep=0.5)
    record.note(IN_PACK, True)
    for number in range(7):
        record.enqueue({"x": number / 10, "y": 0.0}, origin="search", seed=0)
    for number in range(3):
        record.tell(Outcome(number, 1, Ending.COMPLETE, 2.0, (2.0,), rungs=((150, 5.0),)), elapsed=0.0)
    rung = Rung(3, 1, ((3, 100, 1.4), (4, 100, 1.1), (5, 100, 1.2), (6, 100, 1.3)))
    decided = rules.decide(record, rung)
    stops = {each.trial for each in decided if each.verdict is Verdict.STOPS}
    assert stops == {3, 6}
    record.decide(decided)
    assert rules.decide(record, rung) == []
    assert Record(f"sqlite:///{tmp_path / 'study.db'}", "study", SPACE, fixed={}).decided == record.decided
    later = rules.decide(record, Rung(7, 1, ((4, 100, 9.0), (5, 150, 4.0))))
    assert [(each.trial, each.tokens, each.verdict) for each in later] == [(5, 150, Verdict.GOES_ON)]


def test_fewer_than_three_finished_stop_nothing(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for number in range(6):
        record.enqueue({"x": number / 10, "y": 0.0}, origin="search", seed=0)
    for number in range(2):
        record.tell(Outcome(number, 1, Ending.COMPLETE, 2.0, (2.0,), rungs=((100, 1.0),)), elapsed=0.0)
    decided = early(rule="asha", startup=1).decide(record, Rung(2, 1, ((2, 100, 9.0), (3, 100, 8.0))))
    assert [each.verdict for each in decided] == [Verdict.GOES_ON, Verdict.GOES_ON]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("batch-gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["unsent", "sent", "worker"])
def test_killed_at_any_question_a_study_has_the_record_of_an_undisturbed_one(
    tmp_path: Path, sampler: str, how: str
) -> None:
    (tmp_path / "whole").mkdir()
    worker = AtRungs()
    whole = searched(tmp_path / "whole", 17, worker, sampler=sampler)
    for number in range(1, len(worker.asked), 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            record = searched(folder, 17, AtRungs(number=number, how=how), sampler=sampler)
        except Killed:
            record = searched(folder, 17, AtRungs(), sampler=sampler)
        assert log_of(record, attempts=False) == log_of(whole, attempts=False)
        assert record.decided == whole.decided


def test_with_several_processes_it_goes_on_from_its_own_order(tmp_path: Path) -> None:
    """Killed at a question, what was decided stands, and no trial is decided about twice."""
    with pytest.raises(Killed):
        searched(tmp_path, 17, AtRungs(2, number=9, how="unsent"))
    before = dict(opened(tmp_path).decided)
    worker = AtRungs(2)
    record = searched(tmp_path, 17, worker)
    assert {key: record.decided[key] for key in before} == before
    asked = [(trial, tokens) for rung in worker.asked for trial, tokens, _ in rung.losses]
    assert not set(asked) & before.keys()
    assert len(asked) == len(set(asked))
    for trial in stopped_of(record):
        assert trial.outcome is not None
        last = record.decided[trial.number, trial.outcome.rungs[-1][0]]
        assert (last.verdict, last.value) == (Verdict.STOPS, trial.value)


def assert_each_ended_once(record: Record, count: int) -> None:
    assert [trial.number for trial in record.trials] == list(range(count))
    assert sorted(trial.order for trial in record.trials if trial.order is not None) == list(range(count))


PAIRS = Packing(2, 2, exact=True, uneven=True)  # four packs a block, of which two run


def test_a_place_that_comes_free_goes_to_a_trial_that_waits(tmp_path: Path) -> None:
    """It is in the record, which pack it joined and when; what it is measured to is its own."""
    worker = AtRungs(2)
    record = searched(tmp_path, 33, worker, packing=PAIRS)
    assert_each_ended_once(record, 33)
    assert len(record.joined) >= 3
    assert [(r.trial, r.joins, r.pack) for r in worker.joined] == [(j.trial, j.after, j.pack) for j in record.joined]
    submitted = [trial for pack in worker.submitted for trial in pack]
    assert sorted([*submitted, *(joined.trial for joined in record.joined)]) == list(range(33))
    for joined in record.joined:
        trial, host = record.trials[joined.trial], record.trials[joined.pack]
        assert (trial.pack, trial.joins) == (joined.pack, joined.after)
        assert trial.block == host.block, "points never depend on who joins what"
        assert record.trials[joined.after[0]].pack == joined.pack
        assert trial.outcome is not None
        assert all(loss == loss_at(trial.hyperparameters, at / TOKENS) for at, loss in trial.outcome.rungs)
    again = opened(tmp_path)
    assert again.joined == record.joined
    assert [trial.pack for trial in again.trials] == [trial.pack for trial in record.trials]


def test_freed_places_save_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    for name in ("used", "empty"):
        (tmp_path / name).mkdir()
        worker = AtRungs(2)
        searched(tmp_path / name, 33, worker, packing=PAIRS)
        steps.append(worker.steps)
        monkeypatch.setattr("meshtune.study.packs.LONGEST", 1)  # of its own trials: none joins
    assert steps[0] < steps[1]


def test_none_joins_for_whom_there_is_no_memory(tmp_path: Path) -> None:
    packing = Packing(2, 2, uneven=True, fits=lambda points: sum(point["y"] > 0.5 for point in points) < 2)
    record = searched(tmp_path, 33, AtRungs(2), packing=packing)
    assert_each_ended_once(record, 33)
    for joined in record.joined:
        members = [trial for trial in record.trials if trial.pack == joined.pack and trial.joins is None]
        assert len(members) == 2


def test_nothing_joins_once_the_search_is_to_end(tmp_path: Path) -> None:
    """What runs ends, what waits stays pending; the next run has it join where there is a place again."""
    worker = AtRungs(2)
    record = searched(tmp_path, 33, worker, packing=PAIRS, stop=lambda: Stop("asked") if worker.joined else None)
    joined = len(record.joined)
    assert record.pending
    assert {trial.number for trial in record.pending}.isdisjoint(each.trial for each in record.joined)
    record = searched(tmp_path, 33, AtRungs(2), packing=PAIRS)
    assert_each_ended_once(record, 33)
    assert len(record.joined) > joined


def test_nothing_joins_where_another_holds_the_study(tmp_path: Path) -> None:
    worker = AtRungs(2)

    def holding() -> None:
        if any(each.verdict is Verdict.STOPS for each in opened(tmp_path).decided.values()):
            raise LeaseLost("another run holds it")

    with pytest.raises(LeaseLost):
        searched(tmp_path, 33, worker, packing=PAIRS, holding=holding)
    assert worker.joined == []
    assert opened(tmp_path).joined == []


@pytest.mark.parametrize("how", ["unsent", "sent", "worker"])
def test_killed_around_a_joining_every_trial_ends_once_where_it_joined(tmp_path: Path, how: str) -> None:
    for number in (9, 13, 17):
        folder = tmp_path / str(number)
        folder.mkdir()
        joined = []
        try:
            record = searched(folder, 25, AtRungs(2, number=number, how=how), packing=PAIRS)
        except Killed:
            joined = opened(folder).joined
            record = searched(folder, 25, AtRungs(2), packing=PAIRS)
        assert_each_ended_once(record, 25)
        assert record.joined[: len(joined)] == joined


def test_what_can_join_no_more_is_trained_with_its_pack_once_more(tmp_path: Path) -> None:
    worker = AtRungs(2)
    worker.over = True
    record = searched(tmp_path, 25, worker, packing=PAIRS)
    assert_each_ended_once(record, 25)
    assert record.joined
    for joined in record.joined:
        pack = next(pack for pack in worker.submitted if joined.trial in pack)
        assert pack.index(joined.trial) > 0, "in the place that the record says"


@pytest.mark.parametrize("sampler", ["random", "batch-gp"])
def test_asynchronously_a_place_that_comes_free_goes_to_a_new_point(tmp_path: Path, sampler: str) -> None:
    """Made from what is known by then; a pack does not grow for ever: where it is lost, all of it is trained again."""
    worker = AtRungs(1)
    packing = Packing(1, 4, exact=True, uneven=True)
    record = searched(tmp_path, 30, worker, sampler=sampler, packing=packing, asynchronous=True)
    assert_each_ended_once(record, 30)
    assert len(record.joined) >= 5
    for joined in record.joined:
        trial = record.trials[joined.trial]
        assert trial.seen > record.trials[joined.pack].seen
    sizes = [sum(trial.pack == number for trial in record.trials) for number in {t.pack for t in record.trials}]
    assert max(sizes) <= 16


def test_a_study_of_an_earlier_version_goes_on_with_thresholds(tmp_path: Path) -> None:
    """It has no note: what it began with is what it goes on with, and nothing of it asks."""
    record, rules = opened(tmp_path), early(rule="asha")
    record.enqueue(START, origin="baseline", seed=0, thresholds=rules.measured(START))
    worker = AtRungs()
    record = searched(tmp_path, 17, worker)
    assert worker.asked == []
    assert record.trials[-1].thresholds[0][1] is not None
