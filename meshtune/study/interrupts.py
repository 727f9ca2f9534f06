"""Ctrl-C in a script or a notebook: the first lets running trials save themselves, the second ends the call at once.

As `meshtune.study.signals` for the command line, but nothing ends the process: it is the user's own. Interrupts
reach the main thread only; in another one nothing is taken.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from meshtune.plan.budget import Stop
from meshtune.study.signals import GRACE_SECONDS


class Interrupts:
    """The interrupts that came while `taken` was open. Until `cooperative` is set, the first one ends the call too."""

    interrupted = True  # what stops a call is always the user; see `meshtune.study.signals`

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
