"""When a run is asked to stop from outside: signals, Ctrl-C in a script or a notebook, and the end of its time.

Each becomes a `Stop`, which the loop asks for. On the command line (`Signals`), SIGTERM, SIGHUP (a terminal that is
closed), SIGUSR1, SIGUSR2 and SIGINT (Ctrl-C) suspend what runs. A SIGTERM or Ctrl-C after another of these two ends the
process at once, and its children with it. What the shell ignores, as it does SIGHUP under nohup and Ctrl-C for what it
runs in the background, stays ignored. In Python (`Interrupts`) only Ctrl-C is taken, and nothing ends the process,
which is the user's own. While nothing can be suspended yet (`cooperative` is False), either raises KeyboardInterrupt.
Signals reach the main thread only: elsewhere, as in a server, none is taken.

A run that must have ended at some time (`TimeLimit`: `--time-limit`, the end of its SLURM job) stops a margin before,
in which running trials save themselves. How long the longest step of a trial takes is not known (a validation over many
rows of a large model takes minutes), so the margin grows with the time that there is: 5 % of it, at least a minute and
at most five, and never more than half.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from meshtune.errors import Fault, InputError
from meshtune.plan.budget import Stop
from meshtune.system.child_start import SIGNALS

GRACE_SECONDS = 20.0  # SLURM sends SIGKILL 30 seconds after SIGTERM, and a terminal's user does not wait longer
REPEAT_SECONDS = 2.0  # batch systems signal a process directly and through the job's script
STOPPED, INTERRUPTED = 75, 130
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WORDS = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


class Signals:
    """The signals that came while `taken` was open.

    Args:
        grace: seconds that running trials have to save themselves after SIGUSR1 or SIGUSR2, which announce an end that
            is further away than SIGTERM's; asked when one comes.
    """

    def __init__(self, grace: Callable[[], float] = lambda: GRACE_SECONDS):
        self.cooperative = False
        self._grace = grace
        self._stop: Stop | None = None
        self._came: list[tuple[int, float]] = []

    def stop(self) -> Stop | None:
        """The request to stop, once a signal came."""
        return self._stop

    @property
    def interrupted(self) -> bool:
        """Whether the first of them was a Ctrl-C."""
        return bool(self._came) and self._came[0][0] == signal.SIGINT

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals, and give them back to whom they were of at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        before = {kind: signal.signal(kind, self._on) for kind in kinds if signal.getsignal(kind) != signal.SIG_IGN}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _on(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._ends(number, now):
            os._exit(INTERRUPTED if number == signal.SIGINT else STOPPED)
        self._came.append((number, now))
        if self._stop is None:
            announced = signal.Signals(number).name in ("SIGUSR1", "SIGUSR2")
            seconds = self._grace() if announced else GRACE_SECONDS
            reason = "interrupted" if number == signal.SIGINT else f"{signal.Signals(number).name} came"
            self._stop = Stop(reason, seconds)
        if not self.cooperative and len(self._came) == 1:
            raise KeyboardInterrupt

    def _ends(self, number: int, now: float) -> bool:
        """Whether a signal ends the process: the second that is urgent, where it does not merely repeat the first."""
        urgent = (signal.SIGINT, signal.SIGTERM)
        earlier = [when for kind, when in self._came if kind in urgent]
        if number not in urgent or not earlier:
            return False
        return number == signal.SIGINT or now - earlier[-1] > REPEAT_SECONDS


class Interrupts:
    """Ctrl-C in a script or a notebook: the first lets running trials save themselves, the second ends the call.

    They count while `taken` is open. Until `cooperative` is set, the first one ends the call too.
    """

    interrupted = True  # what stops a call is always the user; see `Signals`

    def __init__(self) -> None:
        self.cooperative = False
        self.count = 0

    def stop(self) -> Stop | None:
        """The request to suspend what runs, once an interrupt came."""
        return Stop("interrupted", GRACE_SECONDS) if self.count else None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take SIGINT, and give it back at the end. Where others take it already, it is left to them."""
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._on)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on(self, _: int, __: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 or not self.cooperative:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class TimeLimit:
    """A moment (by `running_clock`) at which this run is stopped, how long suspending may take then, and why."""

    moment: float
    grace: float
    reason: str

    def stop(self) -> Stop | None:
        """The request to stop, once the moment has come."""
        return Stop(self.reason, self.grace) if running_clock() >= self.moment else None

    def left(self) -> float:
        """Seconds that suspending may take from now on, where it begins now."""
        return max(0.0, self.moment - running_clock()) + self.grace


def running_clock() -> float:
    """Seconds that nobody can set, those in which the machine slept included (Linux; elsewhere it may leave them out).

    The time of day may jump, by an administrator's hand or where a machine had the wrong one.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def time_limit(text: str | None, environment: Mapping[str, str]) -> TimeLimit | None:
    """The earlier of `--time-limit` from now and SLURM_JOB_END_TIME, or None where there is neither.

    Raises InputError on a text that is no length of time.
    """
    now = running_clock()
    limits = []
    if text is not None:
        limits.append(_limit(now, now + seconds(text), f"the time limit of {text} is near"))
    end = _epoch(environment.get("SLURM_JOB_END_TIME"))
    left = -1.0 if end is None else end - time.time()
    if left > 0:  # else it was inherited from a job that has ended, as by a terminal multiplexer
        limits.append(_limit(now, now + left, "the end of the SLURM job is near"))
    return min(limits, key=lambda limit: limit.moment, default=None)


def _limit(now: float, end: float, reason: str) -> TimeLimit:
    whole = max(0.0, end - now)
    margin = min(max(0.05 * whole, 60.0), 300.0, whole / 2)
    return TimeLimit(end - margin, max(0.9 * margin, 1.0), reason)


def seconds(text: str) -> float:
    """`90m`, `3h30m`, `2d`, `45s`; also as SLURM writes it: minutes, `30:00`, `12:00:00`, `2-12`, `2-12:30:00`.

    Raises InputError.
    """
    if match := _WORDS.fullmatch(text.strip()):
        total = sum(int(count) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True) if count)
    elif match := _SLURM.fullmatch(text.strip()):
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        first = 3600 if days is not None or len(numbers) == 3 else 60
        total = int(days or 0) * 86400 + sum(n * u for n, u in zip(numbers, (first, first // 60, 1), strict=False))
    else:
        total = 0
    if total <= 0:
        allowed = "such as `90m`, `3h30m`, `2d`, or as SLURM writes it: minutes, `12:00:00`, `2-12:00:00`"
        raise InputError(Fault(f"`{text}` is no length of time; give one {allowed}", key="--time-limit"))
    return float(total)


def _epoch(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
