"""Signals as requests to stop: what a batch system or a terminal sends becomes a `Stop` that the loop asks for.

SIGTERM, SIGHUP (a terminal that is closed), SIGUSR1, SIGUSR2 and SIGINT (Ctrl-C) suspend what runs. A SIGTERM or Ctrl-C
after another of these two ends the process at once, and its children with it. What the shell ignores, as it does SIGHUP
under nohup and Ctrl-C for what it runs in the background, stays ignored. While nothing can be suspended yet
(`cooperative` is False), a signal raises KeyboardInterrupt instead. Signals reach the main thread only: elsewhere, as
in a server, none is taken.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from meshtune.plan.budget import Stop
from meshtune.system.child_signals import NAMES

GRACE_SECONDS = 20.0  # SLURM sends SIGKILL 30 seconds after SIGTERM, and a terminal's user does not wait longer
REPEAT_SECONDS = 2.0  # batch systems signal a process directly and through the job's script
STOPPED, INTERRUPTED = 75, 130


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
        kinds = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
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
