"""Trials that take their coordinator with them, as a crash of the whole machine or its memory running out may do.

A trial that crashes by itself is counted while the study runs (`packs.py`). Where the coordinator is gone too, nobody
is left to count. So each start of a trial that an earlier run left pending is in the record before it happens, and is
taken back where this run ends in any way of its own: at its budget, asked to stop, interrupted, with an error. What is
left there are runs that died. A trial's first start is its proposal, and counts nothing.

A trial that has saved something since its last start got further, and is counted anew. After `attempts` such runs it is
run with no other trial beside it, since only then it is known which one it is. After as many more it is given up as
crashed. Trials that run on other machines than the coordinator cannot end it, and are not counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from meshtune.errors import LeaseLost, StorageError
from meshtune.objectives import checkpoints
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.trial import Ending, Outcome, Request

STARTED = "started_again"  # the note: by pending trial its starts that nothing came of, and when it had saved last


class Deaths:
    """What the record says of trials that were pending when a coordinator died; a context that lasts as long as a run.

    Args:
        attempts: as `worker.attempts`. holding: raises where the record is no longer ours to write to.
        saved: the folder in which trials of this machine save themselves; None: they run elsewhere.
    """

    def __init__(self, record: Record, attempts: int, saved: Path | None, holding: Callable[[], None]):
        self._record, self._attempts, self._saved, self._holding = record, attempts, saved, holding
        going = {trial.number for trial in record.pending} | record.thawing.keys()
        self._left = going if saved is not None else set[int]()
        noted = record.notes.get(STARTED) or {}
        self._counts = {trial: tuple(noted.get(str(trial), (0, 0))) for trial in self._left}
        self._before = dict[int, tuple[int, int]]()  # of trials that were started in this run

    @property
    def alone(self) -> set[int]:
        """Trials that shall run with no other one beside them."""
        return {trial for trial in self._left if self._counts[trial][0] >= self._attempts}

    def given_up(self) -> Iterator[RecordedTrial]:
        """Record the end of trials that were tried often enough."""
        for trial in sorted(self._left):
            count, _ = self._counts[trial]
            if count < 2 * self._attempts:
                continue
            self._left.discard(trial)
            self._holding()
            words = (
                f"the coordinator died in {count} runs while this trial was running, the last"
                f" {count - self._attempts} times with no other trial beside it. Did the machine crash, or run out of"
                " memory?"
            )
            outcome = Outcome(trial, count, Ending.CRASHED, message=words, retry=False, lost=True)
            if trial in self._record.thawing:
                yield self._record.promote(outcome, learnt=True)
            elif told := self._record.tell(outcome, elapsed=self._record.elapsed):
                yield told

    def starting(self, pack: Sequence[Request]) -> None:
        """Make durable that these trials are started, where they were left pending."""
        trials = [request.trial for request in pack]
        again = [trial for trial in trials if trial in self._left and self._record.goes(trial)]
        if self._saved is None or not again:
            return
        for trial in again:
            folders = {checkpoints.name_of([trial]), checkpoints.of_pack(pack)}
            places = [self._saved / name for name in folders]
            places.append(self._saved.parent / checkpoints.STOPPED / checkpoints.name_of([trial]))  # of one that thawed
            saved = max(map(checkpoints.saved_at, places))
            count, before = self._before[trial] = self._counts[trial]
            self._counts[trial] = (1 if saved > before else count + 1, max(saved, before))
            self._left.discard(trial)
        self._note()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """The run ends in a way of its own: what it started counts for nothing."""
        pending = [trial for trial in self._before if self._record.goes(trial)]
        if not pending or (kind is not None and issubclass(kind, StorageError | LeaseLost)):
            return  # a database that is away takes no note
        self._counts |= {trial: self._before[trial] for trial in pending}
        with contextlib.suppress(StorageError, LeaseLost):
            self._note()

    def _note(self) -> None:
        self._holding()
        counts = {str(t): list(each) for t, each in self._counts.items() if self._record.goes(t)}
        self._record.note(STARTED, counts)
