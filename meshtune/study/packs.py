"""The packs of a study that wait and those that run: trials that are submitted together.

A pack is evaluated with the same members each time, those that have ended already among them, since its losses may
depend on them by their last digits; what such a member answers again is discarded by the record. The last attempt of a
pack that keeps crashing is one trial at a time, so that the one at fault takes no others with it. What was lost
with its node says little about its trials, and is tried more often. Of packs that wait the longest comes first, by
its epochs and ranks, so that none of the last ones to start keeps a whole block waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from meshtune.errors import StorageError
from meshtune.record.decisions import IN_PACK
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.trial import Outcome, Request
from meshtune.workers.planner import as_number

LOSSES = 5  # times `attempts`: what was lost with its node that often is given up, since it may be what takes it down


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
    """

    number: int
    trials: list[int]
    attempt: int = 1
    crashes: int = 0
    awaited: set[int] = field(default_factory=set)
    crashed: list[int] = field(default_factory=list)
    at_fault: bool = False

    def requests(
        self, record: Record, threads: int | None, timeout: float | None, width: int | None = None
    ) -> list[Request]:
        """What is submitted. At most `width` are trained at once.

        The timeout of a trial alone becomes that of all of them together.
        """
        allowed = None if timeout is None else timeout * len(self.trials)
        trials = [record.trials[number] for number in self.trials]
        requests = [trial.request(threads, allowed) for trial in trials]
        shared: dict[str, Any] = {"attempt": self.attempt, "width": width, "pass_tokens": record.pass_tokens}
        return [replace(request, **shared, **_asking(record, request)) for request in requests]


def _asking(record: Record, request: Request) -> dict[str, Any]:
    """Whether a request asks at its rungs, with what is decided already; the baseline is trained to its end."""
    asks = bool(record.notes.get(IN_PACK)) and record.trials[request.trial].origin == "search"
    known = (record.decided.get((request.trial, tokens)) for tokens, _ in request.thresholds)
    return {"asks": asks, "decided": tuple((each.tokens, each.verdict) for each in known if each is not None)}


class Packs:
    """Begins with the packs of the record's pending trials."""

    def __init__(self, record: Record):
        self._record = record
        self.waiting: deque[Pack] = deque()
        self._running: dict[int, Pack] = {}
        for number in dict.fromkeys(trial.pack for trial in record.pending):
            self.waiting.append(Pack(number, [trial.number for trial in record.trials if trial.pack == number]))

    @property
    def running(self) -> int:
        """Trials that run."""
        return len(self._running)

    def add(self, trial: RecordedTrial) -> None:
        """A new trial waits, with the others of its pack."""
        for pack in self.waiting:
            if pack.number == trial.pack:
                pack.trials.append(trial.number)
                return
        self.waiting.append(Pack(trial.pack, [trial.number]))

    def start(self) -> Pack:
        """The next pack, which runs from here on: one that is tried again, else the longest."""
        pack = max(self.waiting, key=lambda pack: (pack.attempt, *self._cost(pack)))  # of equal ones the first
        self.waiting.remove(pack)
        pack.awaited = set(pack.trials)
        self._running.update(dict.fromkeys(pack.trials, pack))
        return pack

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
            alone = [Pack(trial, [trial], attempt, crashes) for trial in sorted(pack.crashed)]
            self.waiting.extendleft(reversed(alone))
        else:
            self.waiting.appendleft(Pack(pack.number, pack.trials, attempt, crashes))

    def _cost(self, pack: Pack) -> tuple[float, float]:
        """Of training, to have an order: epochs, then ranks."""
        points = [self._record.trials[number].hyperparameters for number in pack.trials]
        epochs, ranks = ([as_number(point.get(name)) for point in points] for name in ("epochs", "rank"))
        return sum(epochs), sum(ranks)

    def abandon(self) -> None:
        """What runs was suspended: it is nobody's any more."""
        self._running.clear()
