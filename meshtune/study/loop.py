"""THE LOOP: ask, evaluate, tell, record, until the budget is spent.

`run` is a generator of events; whoever reads them shows them, and whoever closes it abandons what runs: its proposals
stay in the record and the next run evaluates them. A block is proposed as a whole before any of it is submitted, so
that points never depend on the order in which answers arrive inside it; it is cut into packs, which are submitted each
as one. Asynchronously there are no blocks: a process that is free gets a pack of new points, made from the trials that
have ended so far and those that are pending; the record says which those were. Asked to stop, it lets running trials
finish, or suspends them: they stay pending, and the next run takes them up where they saved themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from meshtune.plan.budget import EXHAUSTED, Budget, Limit, Stop
from meshtune.record.decisions import Joined
from meshtune.record.log import Record, no_rungs
from meshtune.record.requests import Answer
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.interface import Sampler
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.control import Control, finishing, worded
from meshtune.study.deaths import Deaths
from meshtune.study.gains import Gains
from meshtune.study.packs import Pack, Packs, full_disk
from meshtune.system.text import counted
from meshtune.trial import Decision, Ending, Event, Outcome, Progress, Request, Rung, Verdict
from meshtune.workers.interface import Worker
from meshtune.workers.planner import Packing, Points

WAIT_SECONDS = 0.5
ALONE = Packing(1)


@dataclass(frozen=True)
class Opened:
    """The study is open and its workers are starting: `slots` trials run at once; `price` is that of an hour.

    `why`: the reason for the sampler, where that was not named. `warnings`: what makes its losses worth less.
    """

    record: Record
    folder: Path
    sampler: str
    slots: int
    trials: int | None
    price: float | None = None
    why: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """The run enters another stage, such as measuring on the test rows."""

    text: str


@dataclass(frozen=True)
class _OfTrial:
    trial: RecordedTrial


class Proposed(_OfTrial):
    """A trial was proposed and recorded."""


class TrialFinished(_OfTrial):
    """A trial ended and its outcome is recorded."""


class Promoted(_OfTrial):
    """A trial that was stopped early has been trained on, and how that ended is recorded."""


class Thawed(_OfTrial):
    """A trial that was stopped early goes on in the search, which is recorded."""


class Frozen(_OfTrial):
    """A trial that had thawed was stopped again, and how it stands is recorded."""


class Dropped(_OfTrial):
    """The state of a trial that was stopped, or stops, is given up for want of disk, which is recorded."""


@dataclass(frozen=True)
class Started:
    """A trial was submitted."""

    request: Request


@dataclass(frozen=True)
class Running:
    """A trial progresses."""

    progress: Progress


@dataclass(frozen=True)
class Retried:
    """An attempt crashed and the trial is tried again."""

    outcome: Outcome


@dataclass(frozen=True)
class Finished:
    """The loop has ended: `reason` in words; `complete` is False where it was asked to stop before the budget."""

    reason: str
    complete: bool


@dataclass(frozen=True)
class Answered:
    """A person's request about a trial was done or refused."""

    answer: Answer


StudyEvent = (
    Opened
    | Stage
    | Proposed
    | Started
    | Running
    | TrialFinished
    | Promoted
    | Thawed
    | Frozen
    | Dropped
    | Retried
    | Answered
    | Finished
)


def _cut(record: Record, packing: Packing, *, whole: bool) -> Callable[[Points], list[int]]:
    """The packs of the next points: of a `whole` block, of which some trials may be there, else for one process."""
    begun = record.trials[len(record.trials) - record.open_block :] if whole else []
    first, packing = len(record.trials) - len(begun), packing if whole else replace(packing, processes=1)

    def packs(points: Points) -> list[int]:
        block = [*(trial.hyperparameters for trial in begun), *points]
        return packing.numbers(first, block, [trial.pack for trial in begun])[len(begun) :]

    return packs


def _at_once(count: int, share: int, packs: Packs, worker: Worker) -> int:
    """How many of the points that could be proposed are proposed now: those of one pack.

    Where no process is free for it, a pack is made ahead if it is a whole one, so that it need not wait for its points.
    One that was made ahead is submitted before the next is made. Else as many as places came free in packs that run.
    """
    if packs.waiting and worker.free():
        return 0
    idle = worker.free() > len(packs.waiting)
    whole = count >= share or not (packs.waiting or packs.running)
    if idle or whole:
        return min(count, share)
    return 0 if packs.waiting else min(count, packs.free)


@dataclass
class _Search:
    """A search while it runs; its fields are what `run` was given.

    Attributes:
        packs: that wait and run. begun: on the clock, when the search would have begun had it never been interrupted.
        ending: whether the run was asked to stop.
    """

    record: Record
    sampler: Sampler
    worker: Worker
    budget: Budget
    seed: int
    packing: Packing
    share: int
    early: EarlyStopping | None
    attempts: int
    threads: int | None
    timeout: float | None
    joules: Callable[[], float]
    holding: Callable[[], None]
    control: Control | None
    gains: Gains | None
    deaths: Deaths
    packs: Packs = field(init=False)
    begun: float = field(init=False)
    ending: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.begun = time.monotonic() - self.record.elapsed
        self.packs = Packs(self.record, self.deaths.alone)
        for number in dict.fromkeys(thaw.trial for thaw in self.record.thaws):
            self.learn(number)

    def events(self, stop: Callable[[], Stop | None]) -> Iterator[StudyEvent]:
        """The loop itself: propose, submit, wait for what comes and record it."""
        packs = self.packs
        yield from self.make_room()
        while True:
            stopping = stop()
            self.ending = stopping is not None
            yield from self.heed()
            limit, count = self.reached(), 0
            left = packs.waiting or packs.running or self.record.pending or self.record.thawing  # or it was suspended
            used = limit is not None and not left
            if stopping and not used:  # what was asked while the last trials ran ends nothing early
                limit = Limit(stopping.reason, hold=True)
            if limit is None:
                yield from self.thaw()
                count = yield from self.propose()
                if not (count or packs.waiting or packs.running):
                    limit = Limit(EXHAUSTED, hold=True)
            started = yield from self.submit(limit)
            if limit and not packs.running and (limit.hold or not packs.waiting):
                if limit.hold:
                    self.record.note("elapsed", self.elapsed)
                yield Finished(limit.reason, complete=used or not stopping)
                return
            grace = stopping.seconds if stopping else None
            if grace is not None:
                yield Stage(f"suspending {counted(packs.running, 'running trial')}")
                self.worker.suspend(grace)
            more = self.sampler.asynchronous and (count > 0 or started)  # a process may be free, or a pack made ahead
            arrived = self.worker.events(WAIT_SECONDS if grace is None and not more else 0)
            self.holding()
            for event in arrived:
                yield from self.hear(event, suspended=grace is not None)
            if grace is not None:
                packs.abandon()  # what was suspended stays pending

    @property
    def elapsed(self) -> float:
        """Search seconds, those of earlier runs included."""
        return time.monotonic() - self.begun

    def reached(self) -> Limit | None:
        """The limit of the budget that is reached."""
        limit = self.budget.reached(
            proposed=len(self.record.trials),
            elapsed=self.elapsed,
            tokens=self.record.tokens,
            joules=self.joules(),
            losses=self.record.losses_in_search,
        )
        if limit is not None or self.gains is None:
            return limit
        return self.gains.reached(waits=bool(self.record.pending) and not self.sampler.asynchronous)

    def heed(self) -> Iterator[StudyEvent]:
        """Do what people asked of single trials, or say why not."""
        if self.control is None:
            return
        for answer, trial in self.control.answers(self.record, self.packs, self.reached, ending=self.ending):
            if trial is not None:
                self.packs.add(trial)
                yield Proposed(trial)
            yield Answered(answer)
        for outcome in self.control.stopped(self.record, self.packs, self.worker):
            yield from self.tell(outcome)
            self.packs.drop_ended()

    def propose(self) -> Generator[StudyEvent, None, int]:
        """Record what may be proposed now, and let it wait in packs; gives how many trials it is."""
        record, sampler, count = self.record, self.sampler, 0
        if self.packs.thawed(alone=sampler.asynchronous) and self.worker.free() <= len(self.packs.waiting):
            return 0  # what comes of it is known first
        if not record.awaits_baseline:  # against which trials are judged: its block is its own
            count = min(sampler.available(record.mirror), self.budget.trials_left(len(record.trials)))
        if sampler.asynchronous:
            count = _at_once(count, self.share, self.packs, self.worker)
        thresholds = no_rungs if self.early is None else partial(self.early.proposed, record)
        cut = _cut(record, self.packing, whole=not sampler.asynchronous)
        if count:
            self.holding()
        for trial in record.propose_block(sampler, count, seed=self.seed, packs=cut, thresholds=thresholds):
            self.packs.add(trial)
            yield Proposed(trial)
        return count

    def thaw(self) -> Iterator[StudyEvent]:
        """Have frozen trials go on that promise more than new points, while processes are free; recorded first.

        Before packs that were made ahead, but behind those of an open block. Where a process trains several at once
        they are left for the places that come free in its next pack, unless it would stand idle.
        """
        first = [pack for pack in self.packs.waiting if pack.begun or not self.sampler.asynchronous]
        if self.early is None or (free := self.worker.free() - len(first)) <= 0:
            return
        if self.share > 1 and not self.record.awaits_baseline and self.sampler.available(self.record.mirror):
            return
        for number in self.early.thaws(self.record, lambda number: not self.packs.holds(number))[:free]:
            self.holding()
            trial = self.record.thaw(number)
            self.packs.thaw(number)
            yield Thawed(trial)

    def make_room(self) -> Iterator[StudyEvent]:
        """Give up states of frozen trials until the disk's limit holds; recorded before any file goes, and before a
        state more is made. What a kill cut short is done again as it was, since it follows from the record alone.
        """
        for number in () if self.early is None else self.early.drops(self.record):
            self.holding()
            yield Dropped(self.record.drop(number))

    def learn(self, number: int) -> None:
        """Have the sampler see how a trial stands that had thawed, where it can."""
        final = self.record.trials[number].final
        if self.sampler.learns and final is not None and final is not self.record.trials[number].outcome:
            value = None if self.early is None else self.early.value(self.record, final)
            self.record.learn(number, value)

    def submit(self, limit: Limit | None) -> Generator[StudyEvent, None, bool]:
        """Start packs while a process is free, unless `limit` holds them; gives whether any was."""
        record, started = self.record, False
        while self.packs.ready and self.worker.free() and not (limit and limit.hold):
            pack, width = self.packs.start(self.packing)
            requests = pack.requests(record, self.threads, self.timeout, width)
            self.deaths.starting(requests)
            self.worker.submit(requests)
            started = True
            yield from (Started(request) for request in requests if record.goes(request.trial))
        if not (limit and limit.hold):
            yield from self.fill()
        return started

    def fill(self) -> Iterator[StudyEvent]:
        """Have trials that wait join packs in which places came free."""
        if self.packs.waiting and self.packs.free:
            self.holding()
            for pack, trial in self.packs.joins(self.packing):
                yield from self.join(pack, trial)

    def join(self, pack: Pack, trial: int) -> Iterator[StudyEvent]:
        """Have a trial evaluated with a pack that runs."""
        request = pack.request(self.record, trial, self.threads, self.timeout, pack.places)
        if self.worker.join(pack.trials[0], request):
            yield Started(request)
        else:
            self.packs.missed(trial)

    def decide(self, early: EarlyStopping, rung: Rung) -> Iterator[StudyEvent]:
        """Answer what becomes of trials at a rung, and which frozen ones take the places that come free there; in the
        record before anybody hears of it, and as it stands there, if it does.

        Frozen ones take places nowhere else: where nothing is computed meanwhile, a resume has them join as they did.
        """
        record, packs = self.record, self.packs
        decided = [finishing(record, each) for each in early.decide(record, rung)]
        verdicts = {(trial, tokens): Verdict.GOES_ON for trial, tokens, _ in rung.losses}  # of one that had ended too
        verdicts |= {key: known.verdict for key in verdicts if (known := record.decided.get(key)) is not None}
        verdicts |= {(each.trial, each.tokens): each.verdict for each in decided}
        decision = Decision(rung.pack, rung.attempt, tuple((*key, verdict) for key, verdict in verdicts.items()))
        pack = packs.decided(decision)

        def taking() -> list[Joined]:
            if pack is None or self.ending or self.reached() is not None:
                return []
            frozen = partial(early.thaws, record, lambda number: not packs.holds(number))
            return list(packs.taking(pack, frozen, self.packing))

        for each in record.decide(decided, taking) if decided else ():
            assert pack is not None
            packs.take(pack, each.trial)
            yield Thawed(record.trials[each.trial])
            yield from self.join(pack, each.trial)
        yield from self.make_room()
        self.worker.decide(decision)

    def hear(self, event: Event, *, suspended: bool) -> Iterator[StudyEvent]:
        """Answer a question, pass a progress on, or record how a trial ended."""
        if isinstance(event, Rung):
            if self.early is not None and not suspended:  # else it asks again once it goes on
                yield from self.decide(self.early, event)
            return
        pending = self.record.goes(event.trial)  # else it runs again for its pack's sake
        if isinstance(event, Progress):
            if pending:
                yield Running(event)
            return
        crashed = pending and event.ending is Ending.CRASHED and event.retry
        if crashed and event.no_room:
            raise full_disk(event)
        again = crashed and (suspended or self.packs.may_again(event, self.attempts))
        self.packs.answered(event, again=again, attempts=self.attempts)
        if again:
            yield Retried(event)
            return
        yield from self.tell(worded(self.record, event))

    def tell(self, outcome: Outcome) -> Iterator[StudyEvent]:
        """Record how a trial ended; where it had ended before, nothing happens."""
        if outcome.trial in self.record.thawing:
            yield from self.stood(outcome)
            return
        pending = self.record.trials[outcome.trial].outcome is None
        value = None if self.early is None or not pending else self.early.value(self.record, outcome)
        if finished := self.record.tell(outcome, elapsed=self.elapsed, value=value):
            yield TrialFinished(finished)

    def stood(self, outcome: Outcome) -> Iterator[StudyEvent]:
        """Record how a trial that had thawed was stopped again, or ended."""
        if outcome.ending is Ending.STOPPED_EARLY:
            event: StudyEvent = Frozen(self.record.freeze_again(outcome))
        else:
            event = Promoted(self.record.promote(outcome, learnt=True))
        self.learn(outcome.trial)
        self.record.note("elapsed", self.elapsed)
        yield event


def run(
    record: Record,
    sampler: Sampler,
    worker: Worker,
    budget: Budget,
    *,
    seed: int,
    packing: Packing = ALONE,
    share: int = 1,
    early: EarlyStopping | None = None,
    attempts: int = 3,
    threads: int | None = None,
    timeout: float | None = None,
    joules: Callable[[], float] = lambda: 0.0,
    stop: Callable[[], Stop | None] = lambda: None,
    holding: Callable[[], None] = lambda: None,
    control: Control | None = None,
    gains: Gains | None = None,
    saved: Path | None = None,
) -> Generator[StudyEvent, None, None]:
    """Search until the budget is spent, the space is exhausted, or `stop()` says so (once it does, it keeps to it).

    Pending trials of an interrupted run are evaluated first, their packs as they were. `attempts` crashes, or one that
    would come again, end a trial as `crashed`; one that was lost with its node hardly counts (`packs.py`). `share`:
    points that a free process gets where the sampler is asynchronous. `early` says where trials are stopped, and what
    value samplers get of them. `timeout` is that of a trial trained alone. `joules()`: what the study has taken so far.
    `holding()` raises where the study is no longer ours to write to; it is asked before anything is recorded.
    `control` has what people ask of single trials meanwhile; `gains` ends the search where little is to be gained.
    `saved`: where trials of this machine save themselves; given, those that take the coordinator with them are
    found out (`deaths.py`).
    """
    parts = (record, sampler, worker, budget, seed, packing, share, early, attempts, threads, timeout, joules, holding)
    with Deaths(record, attempts, saved, holding) as deaths:
        yield from map(TrialFinished, deaths.given_up())
        if deaths.alone:
            which = ", ".join(map(str, sorted(deaths.alone)))
            yield Stage(f"running by itself, since the coordinator died while it ran before: trial {which}")
        yield from _Search(*parts, control, gains, deaths).events(stop)
