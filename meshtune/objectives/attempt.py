"""One attempt to evaluate a request while it runs: its clock, what it has reported so far, and how it ended."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from meshtune.errors import InputError
from meshtune.system.whole_file import no_room
from meshtune.training import machine
from meshtune.training.packed.changes import PassLimit
from meshtune.training.packed.unpackable import Unpackable
from meshtune.training.steps import Diverged, Step, Suspended, in_thread
from meshtune.trial import Ending, Outcome, Progress, Request, Verdict

PROGRESS_SECONDS = 0.5  # at most one progress in this time, but where a loss was measured
LAST_STEPS = 10  # whose mean training loss a progress reports
T = TypeVar("T")


class TimedOut(Exception):
    """The request's timeout is over."""


@dataclass(frozen=True)
class Failure:
    """How an error ends an evaluation. It holds no reference to the error, whose frames hold tensors."""

    ending: Ending
    message: str
    retry: bool = True
    no_room: bool = False


def failure_of(error: Exception) -> Failure:
    """Whatever a library raises is how an evaluation ended; what is no known ending is printed to the worker's log.

    Raises the error again where the device is lost: the process must end.
    """
    if machine.is_device_lost(error):
        raise error
    match error:
        case Diverged():
            return Failure(Ending.DIVERGED, str(error))
        case TimedOut():
            return Failure(Ending.TIMED_OUT, str(error))
        case InputError():  # what is wrong with the input stays wrong, but for a file that cannot be read now
            return Failure(Ending.CRASHED, str(error), retry=isinstance(error.__cause__, OSError))
        case Unpackable():
            return Failure(Ending.CRASHED, str(error), retry=False)
    message = f"{type(error).__name__}: {error}"
    if machine.is_out_of_memory(error):
        return Failure(Ending.OUT_OF_MEMORY, message)
    traceback.print_exception(error)
    return Failure(Ending.CRASHED, message, no_room=no_room(error))


class Attempt:
    """One attempt. Any ending holds what it has reported so far.

    Attributes:
        stopped: whether it ends at a rung, or where it is. Then only further rungs of that step count.
        asking: tokens of rungs of which it is to be decided what becomes of it there.
        late: those of which that was not decided in time.
        waited: seconds for decisions, which its timeout does not count.
        limit: of its passes, as they are cut where memory runs out.
    """

    def __init__(self, request: Request):
        self.request, self.limit = request, PassLimit(request.pass_tokens)
        self.begin()

    def begin(self) -> None:
        """Start the clock; loading the base is no part of a trial's time."""
        self._begun = time.monotonic()
        self.start_over()

    def start_over(self) -> None:
        """Forget what was reported, while the clock goes on."""
        self.tokens = 0
        self.losses: list[float] = []
        self.training_losses: list[float] = []
        self.rungs: list[tuple[int, float]] = []
        self.stopped = False
        self.asking: list[int] = []
        self.late: list[int] = []
        self.waited = 0.0
        self.earlier = 0.0  # seconds, before the checkpoint from which it went on
        self._last: deque[float] = deque(maxlen=LAST_STEPS)
        self._reported = -PROGRESS_SECONDS

    @property
    def seconds(self) -> float:
        """Of the evaluation so far, those of earlier processes included."""
        return self.earlier + time.monotonic() - self._begun

    def note(self, step: Step) -> Iterator[Progress]:
        """Take note of a step; yields a progress if one is due. Raises TimedOut, Diverged."""
        if self.stopped and step.rung is None:
            return
        self.tokens, self.earlier = step.tokens, step.earlier
        for loss in (step.training_loss, step.validation_loss, step.rung_loss):
            if loss is not None and not math.isfinite(loss):
                raise Diverged(f"a loss of step {step.step} was {loss}")
        if step.rung is not None and step.rung_loss is not None:
            self._reached(step.rung, step.rung_loss)
        elif step.validation_loss is not None:
            self.losses.append(step.validation_loss)
            self.training_losses.append(step.training_loss or 0.0)
        elif step.training_loss is not None:
            self._last.append(step.training_loss)
            if not self.training_losses:
                self.training_losses.append(step.training_loss)
        if not self.stopped:
            self.check_time()
        seconds = self.seconds
        measured = step.validation_loss is not None or step.rung_loss is not None
        if measured or seconds - self._reported >= PROGRESS_SECONDS:
            self._reported = seconds
            mean = sum(self._last) / len(self._last) if self._last else None
            yield self.progress(step.step, step.steps, step.epoch, mean, step.validation_loss, step.rung_loss)

    def progress(self, *where: Any) -> Progress:
        """A progress; `where`: its fields from `step` on."""
        return Progress(self.request.trial, self.request.attempt, *where)

    def check_time(self) -> None:
        """Raises TimedOut once the request's timeout is over."""
        # Promoted or thawed, a trial's time begins anew: before it was stopped, it shared its pack's.
        used = self.seconds - self.waited - (self.earlier if self.request.promote or self.request.thaws else 0.0)
        if self.request.timeout is not None and used > self.request.timeout:
            raise TimedOut(f"not finished after {self.request.timeout:g} s")

    def watch(
        self, work: Callable[[Callable[[], None]], T], stopping: Callable[[], bool]
    ) -> Generator[Progress, None, T]:
        """Do `work(tick)`, with a sign of life now and then at its ticks; returns what it returns.

        Raises Suspended where `stopping()` says so at a tick, TimedOut, and what it raises.
        """

        def whole(emit: Callable[[tuple[T] | None], None]) -> None:
            emit((work(lambda: emit(None)),))

        with contextlib.closing(in_thread(whole)) as items:
            for item in items:
                if item is not None:
                    return item[0]
                if stopping():
                    raise Suspended
                self.check_time()
                if self.seconds - self._reported >= PROGRESS_SECONDS:
                    self._reported = self.seconds
                    yield self.progress()
        raise RuntimeError("it ended without a result")

    def _reached(self, rung: int, loss: float) -> None:
        """Note a rung of the request's own, and whether the trial ends there."""
        thresholds = dict(self.request.thresholds)
        if rung in thresholds:
            self.rungs.append((rung, loss))
            threshold = thresholds[rung]
            if self.request.promote:
                return
            self.stopped |= threshold is not None and loss > threshold
            if self.request.asks:
                self.asking.append(rung)

    def follow(self, verdict_of: Callable[[int, int], Verdict | None]) -> None:
        """End where it was decided that it does; `verdict_of` a trial after so many tokens."""
        if rungs := self.late + self.asking:
            verdicts = {rung: verdict_of(self.request.trial, rung) for rung in rungs}
            self.stopped |= Verdict.STOPS in verdicts.values()
            self.late, self.asking = [rung for rung in rungs if verdicts[rung] is None], []

    def ended(self, ending: Ending, **fields: Any) -> Outcome:
        """The outcome, with everything reported so far."""
        return Outcome(
            self.request.trial,
            self.request.attempt,
            ending,
            losses=tuple(self.losses),
            training_losses=tuple(self.training_losses),
            rungs=tuple(self.rungs),
            seconds=self.seconds,
            tokens=self.tokens,
            pass_tokens=self.limit.tokens,
            **fields,
        )

    def failed(self, failure: Failure) -> Outcome:
        """The outcome of an evaluation that failed."""
        ended = self.ended(failure.ending, message=failure.message, retry=failure.retry)
        return replace(ended, no_room=failure.no_room)
