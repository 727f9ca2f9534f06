"""The packs of a study that wait and those that run: trials that are submitted together.

A pack is evaluated with the same members each time, those that have ended already among them, since its losses may
depend on them by their last digits; what such a member answers again is discarded by the record. The last attempt of a
pack that keeps crashing is one trial at a time, so that the one at fault takes no others with it. What was lost
with its node says little about its trials, and is tried more often. Of packs that wait the longest comes first, by
its epochs and ranks, so that none of the last ones to start keeps a whole block waiting.

Where trials of a pack that runs have been stopped, trials that wait take their places, while others of it go on; so
do trials of packs that have not begun. The record says so before the pack hears of it.

A trial that thaws takes a place that came free at a rung of a pack that runs, or is a pack by itself: the one that it
was stopped in is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, replace
from typing import Any

from meshtune.errors import StorageError
from meshtune.record.decisions import IN_PACK, Joined
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Request, Verdict
from meshtune.workers.planner import Packing, as_number

LOSSES = 5  # times `attempts`: what was lost with its node that often is given up, since it may be what takes it down
LONGEST = 4  # times its places: trials that a pack has at most, which are all trained again where its state is lost


def full_disk(outcome: Outcome) -> StorageError:
    """What ends a run in which a trial could not write its files: it stays pending, and costs no attempt."""
    return StorageError(
        f"trial {outcome.trial}: {outcome.message.rstrip('.')}. Is the disk full, or its folder not writable?"
        " Everything finished is saved, and the trial is evaluated again: make room, and run the same again."
    )


@dataclass
class Pack:
    """Trials in their order.

    Attributes:
        number: that they have in the record. attempt: how often they are tried, this time included.
        crashes: attempts before this one in which one of them crashed by itself, and was not lost with its node.
        awaited: trials without an answer in this attempt. crashed: trials that crashed in it and are tried again.
        at_fault: whether one of those crashed by itself.
        begun: whether its trials stay together, since it has run or may have.
        places: trials that are trained at once. stops: trials that have been told to stop.
        rung: (trial, tokens) of the last one that was decided in this attempt; None: none was yet.
        alone: no other pack runs beside it (`deaths.py`). thawed: it is one trial, which goes on from its state.
    """

    number: int
    trials: list[int]
    attempt: int = 1
    crashes: int = 0
    awaited: set[int] = field(default_factory=set)
    crashed: list[int] = field(default_factory=list)
    at_fault: bool = False
    alone: bool = False
    thawed: bool = False
    begun: bool = False
    places: int = 1
    stops: set[int] = field(default_factory=set)
    rung: tuple[int, int] | None = None

    @property
    def left(self) -> list[int]:
        """Trials of it that are trained, or will be."""
        return sorted(self.awaited - self.stops)

    @property
    def free(self) -> int:
        """Places that came free beside trials that go on."""
        if self.rung is None or not self.left:
            return 0
        return max(0, min(self.places - len(self.left), LONGEST * self.places - len(self.trials)))

    def requests(
        self, record: Record, threads: int | None, timeout: float | None, width: int | None = None
    ) -> list[Request]:
        """What is submitted. At most `width` are trained at once."""
        return [self.request(record, number, threads, timeout, width) for number in self.trials]

    def request(
        self, record: Record, number: int, threads: int | None, timeout: float | None, width: int | None
    ) -> Request:
        """Of one of its trials. The timeout of a trial alone becomes that of all of them together."""
        allowed = None if timeout is None else timeout * len(self.trials)
        trial, joins = record.trials[number], _joins(record, self, number)
        request = trial.request(threads, allowed)
        thaws = None if joins is None else joins.thaw
        thaws = record.last_thaws[number] if self.thawed else thaws
        if thaws is not None:
            request = replace(request, thaws=True, pack=self.number)
        shared: dict[str, Any] = {"attempt": self.attempt, "width": width, "pass_tokens": record.pass_tokens}
        after = joins.after if joins is not None and len(self.trials) > 1 else None
        return replace(request, **shared, joins=after, **_asking(record, request, thaws))


def _joins(record: Record, pack: Pack, number: int) -> Joined | None:
    """Where a trial joined a pack; None: it began with it."""
    return next((each for each in record.joined if (each.trial, each.pack) == (number, pack.number)), None)


def _asking(record: Record, request: Request, thaws: int | None) -> dict[str, Any]:
    """Whether a request asks at its rungs, with what is decided already; the baseline is trained to its end.

    `thaws`: the number of the thaw with which it goes on.
    """
    asks = bool(record.notes.get(IN_PACK)) and record.trials[request.trial].origin == "search"
    known = (record.decided.get((request.trial, tokens)) for tokens, _ in request.thresholds)
    decided = tuple((each.tokens, each.verdict) for each in known if each is not None)
    if thaws is not None:  # past the rungs at which it was stopped
        at = record.thaws[thaws].tokens
        decided = tuple((tokens, Verdict.GOES_ON if tokens <= at else verdict) for tokens, verdict in decided)
    if record.wishes.get(request.trial) == "stop":
        decided = ((AT_ONCE, Verdict.STOPS), *decided)
    return {"asks": asks, "decided": decided}


class Packs:
    """Begins with the packs of the record's pending trials.

    Args:
        alone: trials that shall run with no other one beside them; the others of their packs run without them.
    """

    def __init__(self, record: Record, alone: Set[int] = frozenset()):
        self._record = record
        self.waiting: deque[Pack] = deque()
        self._running: dict[int, Pack] = {}
        joined = record.thawing_in
        for number in dict.fromkeys([*(t.pack for t in record.pending), *(each.pack for each in joined.values())]):
            began = [trial.number for trial in record.trials if trial.pack == number and trial.joins is None]
            members = began + [each.trial for each in record.joined if each.pack == number]
            told = {trial: record.trials[trial].outcome for trial in members}
            takes_down = any(each is not None and each.ending is Ending.CRASHED and each.lost for each in told.values())
            if alone.isdisjoint(members) and not takes_down:
                self.waiting.append(Pack(number, members, begun=True))
                continue
            for trial in filter(record.goes, members):  # without the one at fault
                if trial in joined:
                    self.thaw(trial, alone=trial in alone)
                else:
                    self.waiting.append(Pack(trial, [trial], alone=trial in alone, begun=True))
        for number in record.thawing.keys() - joined.keys():
            self.thaw(number, alone=number in alone)

    @property
    def running(self) -> int:
        """Trials that run."""
        return len(self._running)

    @property
    def ready(self) -> bool:
        """Whether one that waits may start now."""
        return bool(self.waiting) and not any(pack.alone for pack in self._running.values())

    def add(self, trial: RecordedTrial) -> None:
        """A new trial waits, with the others of its pack."""
        for pack in self.waiting:
            if pack.number == trial.pack:
                pack.trials.append(trial.number)
                return
        self.waiting.append(Pack(trial.pack, [trial.number]))

    def thaw(self, number: int, *, alone: bool = False) -> None:
        """A trial that has thawed waits, under an attempt that nothing has had."""
        final = self._record.trials[number].final
        attempt = 1 if final is None else final.attempt + 1
        self.waiting.append(Pack(number, [number], attempt, alone=alone, thawed=True, begun=True))

    def thawed(self, *, alone: bool) -> bool:
        """Whether a trial that has thawed waits or runs; `alone`: as a pack by itself."""
        packs = [*self.waiting, *self._running.values()]
        return any(pack.thawed for pack in packs) or (not alone and bool(self._record.thawing_in))

    def holds(self, number: int) -> bool:
        """Whether a trial is, or was, of a pack that waits or runs."""
        return any(number in pack.trials for pack in [*self.waiting, *self._running.values()])

    def start(self, packing: Packing) -> tuple[Pack, int | None]:
        """The next pack, which runs from here on: one that runs alone, one that is tried again, else the
        longest. At most how many of its trials are trained at once.
        """
        pack = max(self.waiting, key=lambda pack: (pack.alone, pack.attempt, *self._cost(pack)))
        self.waiting.remove(pack)
        pack.awaited = set(pack.trials)
        self._running.update(dict.fromkeys(pack.trials, pack))
        began = [self._record.trials[number] for number in pack.trials]
        began = [trial for trial in began if trial.joins is None] or began
        width = packing.width([trial.hyperparameters for trial in began])
        pack.begun, pack.places = True, len(began) if width is None else width
        return pack, width

    def decided(self, decision: Decision) -> Pack | None:
        """Trials that are told to stop leave their places. Gives their pack; None: it is over."""
        for pack in self._packs():
            if (pack.trials[0], pack.attempt) == (decision.pack, decision.attempt):
                pack.stops |= {trial for trial, _, verdict in decision.verdicts if verdict is Verdict.STOPS}
                pack.rung = decision.verdicts[-1][:2]
                return pack
        return None

    @property
    def free(self) -> int:
        """Places that came free in packs that run."""
        return sum(pack.free for pack in self._packs())

    def joins(self, packing: Packing) -> Iterator[tuple[Pack, int]]:
        """Trials that wait and take places that came free, each in the record by now: the pack, and the trial."""
        for pack in self._packs():
            while pack.free and (trial := self._next(pack, packing)) is not None:
                assert pack.rung is not None
                self._record.join(Joined(trial, pack.number, pack.rung))
                self._leave(trial)
                self.take(pack, trial)
                yield pack, trial

    def taking(self, pack: Pack, frozen: Callable[[], list[int]], packing: Packing) -> Iterator[Joined]:
        """Frozen trials, in their order, that take places which came free in a pack at a rung and for which no trial
        waits that has not begun, where there is memory for them.
        """
        free = pack.free - sum(len(other.trials) for other in self.waiting if not other.begun)
        points = [self._record.trials[number].hyperparameters for number in pack.left]
        for number in frozen() if free > 0 else ():
            points.append(self._record.trials[number].hyperparameters)
            if not packing.fit_together(points):
                points.pop()
                continue
            assert pack.rung is not None
            yield Joined(number, pack.number, pack.rung)
            free -= 1
            if not free:
                return

    def take(self, pack: Pack, trial: int) -> None:
        """A trial is one of a pack that runs."""
        pack.trials.append(trial)
        pack.awaited.add(trial)
        self._running[trial] = pack

    def missed(self, trial: int) -> None:
        """It could not join any more: that attempt of its pack is over, and it is trained in the next one."""
        pack = self._running.pop(trial)
        pack.awaited.discard(trial)
        pack.crashed.append(trial)

    def may_again(self, outcome: Outcome, attempts: int) -> bool:
        """Whether a running trial that has crashed may be tried again."""
        crashes = self._running[outcome.trial].crashes + (not outcome.lost)
        return crashes < attempts and outcome.attempt < LOSSES * attempts

    def answered(self, outcome: Outcome, *, again: bool, attempts: int) -> None:
        """A running trial has ended. Where it shall be tried `again`, its pack waits once the last of it has ended."""
        pack = self._running.pop(outcome.trial)
        pack.awaited.discard(outcome.trial)
        if again:
            pack.crashed.append(outcome.trial)
            pack.at_fault |= not outcome.lost
        if pack.awaited or not pack.crashed:
            return
        attempt, crashes = pack.attempt + 1, pack.crashes + pack.at_fault
        if crashes + 1 >= attempts and pack.at_fault and len(pack.trials) > 1:
            thaws = self._record.thawing
            alone = [Pack(n, [n], attempt, crashes, begun=True, thawed=n in thaws) for n in sorted(pack.crashed)]
            self.waiting.extendleft(reversed(alone))
        else:
            self.waiting.appendleft(Pack(pack.number, pack.trials, attempt, crashes, begun=True, thawed=pack.thawed))

    def _packs(self) -> list[Pack]:
        """Those that run, each once."""
        return list({id(pack): pack for pack in self._running.values()}.values())

    def _next(self, pack: Pack, packing: Packing) -> int | None:
        """The first trial of what has not begun for which there is memory beside a pack's."""
        points = [self._record.trials[number].hyperparameters for number in pack.left]
        waiting = sorted(number for other in self.waiting if not other.begun for number in other.trials)
        waiting = [number for number in waiting if self._record.trials[number].outcome is None]  # a person may stop one
        fitting = (n for n in waiting if packing.fit_together([*points, self._record.trials[n].hyperparameters]))
        return next(fitting, None)

    def _leave(self, trial: int) -> None:
        """Out of the pack in which it waits."""
        for pack in [*self.waiting]:
            if trial in pack.trials:
                pack.trials.remove(trial)
            if not pack.trials:
                self.waiting.remove(pack)

    def _cost(self, pack: Pack) -> tuple[float, float]:
        """Of training, to have an order: epochs, then ranks."""
        points = [self._record.trials[number].hyperparameters for number in pack.trials]
        epochs, ranks = ([as_number(point.get(name)) for point in points] for name in ("epochs", "rank"))
        return sum(epochs), sum(ranks)

    def waits(self, trial: int) -> bool:
        """Whether a trial waits."""
        return any(trial in pack.trials for pack in self.waiting)

    def running_with(self, trial: int) -> Pack | None:
        """The pack that runs with this trial; None: it does not run."""
        return self._running.get(trial)

    def drop_ended(self) -> None:
        """Packs that wait and of which all trials have ended, while they waited, wait no more."""
        ended = [p for p in self.waiting if not any(map(self._record.goes, p.trials))]
        for pack in ended:
            self.waiting.remove(pack)

    def retry(self, trial: int) -> bool:
        """Count the attempts of a trial's pack anew, where it has crashed; False: it has not."""
        running = self._running.get(trial)
        places = [pack for pack in (running, *self.waiting, *self._running.values()) if pack is not None]
        pack = next((p for p in places if trial in p.trials and (p.attempt > 1 or trial in p.crashed)), None)
        if pack is None:
            return False
        pack.crashes, pack.at_fault = 0, False
        return True

    def abandon(self) -> None:
        """What runs was suspended: it is nobody's any more."""
        self._running.clear()
