"""THE LOOP: ask, evaluate, tell, record, until the budget is spent.

`run` is a generator of events; whoever reads them shows them, and whoever closes it abandons what runs: its proposals
stay in the record and the next run evaluates them. A block is proposed as a whole before any of it is submitted, so
that points never depend on the order in which answers arrive inside it. Asked to stop, it lets running trials finish,
or suspends them: they stay pending, and the next run takes them up where they saved themselves.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meshtune.budget import Budget, Limit, Stop
from meshtune.record import Record
from meshtune.recorded import RecordedTrial
from meshtune.samplers.seam import Sampler
from meshtune.trial import Ending, Outcome, Progress, Request
from meshtune.workers.seam import Worker

WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Opened:
    """The study is open and its workers are starting: `slots` trials run at once; `price` is that of an hour."""

    record: Record
    folder: Path
    sampler: str
    slots: int
    trials: int | None
    price: float | None = None


@dataclass(frozen=True)
class Stage:
    """The run enters another stage, such as measuring on the test rows."""

    text: str


@dataclass(frozen=True)
class Proposed:
    """A trial was proposed and recorded."""

    trial: RecordedTrial


@dataclass(frozen=True)
class Started:
    """A trial was submitted."""

    request: Request


@dataclass(frozen=True)
class Running:
    """A trial progresses."""

    progress: Progress


@dataclass(frozen=True)
class Told:
    """A trial ended and its outcome is recorded."""

    trial: RecordedTrial


@dataclass(frozen=True)
class Retried:
    """An attempt crashed and the trial is tried again."""

    outcome: Outcome


@dataclass(frozen=True)
class Finished:
    """The loop has ended: `reason` in words; `complete` is False where it was asked to stop before the budget."""

    reason: str
    complete: bool


StudyEvent = Opened | Stage | Proposed | Started | Running | Told | Retried | Finished


def run(
    record: Record,
    sampler: Sampler,
    worker: Worker,
    budget: Budget,
    *,
    seed: int,
    attempts: int = 3,
    threads: int | None = None,
    timeout: float | None = None,
    stop: Callable[[], Stop | None] = lambda: None,
    holding: Callable[[], None] = lambda: None,
) -> Iterator[StudyEvent]:
    """Search until the budget is spent, the space is exhausted, or `stop()` says so (once it does, it keeps to it).

    Pending trials of an interrupted run are evaluated first. `attempts` crashes, or one that would come again, end
    a trial as `crashed`. `holding()` raises where the study is no longer ours to write to; it is asked before anything
    that arrived is told.
    """
    begun = time.monotonic() - record.elapsed
    queue = deque(trial.request(threads, timeout) for trial in record.pending)
    running: set[int] = set()
    while True:
        limit = budget.reached(proposed=len(record.trials), elapsed=time.monotonic() - begun, tokens=record.tokens)
        if stopping := stop():
            limit = Limit(stopping.reason, hold=True)
        if limit is None:
            count = min(sampler.available(record.mirror), budget.trials_left(len(record.trials)))
            for _ in range(count):
                trial = record.propose(sampler, seed=seed)
                queue.append(trial.request(threads, timeout))
                yield Proposed(trial)
            if not (count or queue or running):
                limit = Limit("the space is exhausted: every point of it was tried", hold=True)
        while queue and worker.free() and not (limit and limit.hold):
            request = queue.popleft()
            worker.submit([request])
            running.add(request.trial)
            yield Started(request)
        if limit and not running and (limit.hold or not queue):
            if stopping:
                record.note("elapsed", time.monotonic() - begun)
            yield Finished(limit.reason, complete=not stopping)
            return
        grace = stopping.seconds if stopping else None
        if grace is not None:
            yield Stage(f"suspending {len(running)} running {'trial' if len(running) == 1 else 'trials'}")
            worker.suspend(grace)
        arrived = worker.events(WAIT_SECONDS if grace is None else 0)
        holding()
        for event in arrived:
            if isinstance(event, Progress):
                yield Running(event)
                continue
            running.discard(event.trial)
            if event.ending is Ending.CRASHED and event.retry and (event.attempt < attempts or grace is not None):
                again = record.trials[event.trial].request(threads, timeout)
                queue.appendleft(dataclasses.replace(again, attempt=event.attempt + 1))
                yield Retried(event)
            elif told := record.tell(event, elapsed=time.monotonic() - begun):
                yield Told(told)
        if grace is not None:
            running.clear()  # what was suspended stays pending
