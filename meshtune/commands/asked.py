"""Signals that ask a training to save itself and end: Ctrl-C, and what cluster schedulers send before they kill."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # not all systems have all


class Asked:
    """Whether a signal has come: called, it says so."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __call__(self) -> bool:
        """Whether to save and end now."""
        return self._signal is not None

    @property
    def interrupted(self) -> bool:
        """Whether it was the user's Ctrl-C."""
        return self._signal == signal.SIGINT

    def receive(self, number: int, _: FrameType | None) -> None:
        """The handler: the first signal asks, a second Ctrl-C ends the process now."""
        if self._signal is not None and number == signal.SIGINT:
            os._exit(130)
        self._signal = self._signal or number


@contextlib.contextmanager
def asked_by_signals() -> Iterator[Asked]:
    """Catch the signals while the block runs; in another thread than the main one none are caught."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    caught = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, asked.receive) for number in caught}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
