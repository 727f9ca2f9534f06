"""The worker seam: what every place where trials run can do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from meshtune.trial import Event, Request


class Worker(Protocol):
    """The worker seam. `meshtune.testing` holds its contract.

    `submit(requests)`: start them, at most `free()`. `events(timeout)`: what has come, waiting up to `timeout` seconds
    for the first; exactly one outcome a request. `stop(trials)`: cancel; they have no outcome. `suspend(seconds)`: let
    what runs save where it is, within so many seconds, and end without an outcome; only `events(0)`, for what came
    meanwhile, and `close` may follow. `close()`: end all.
    """

    def submit(self, requests: Iterable[Request]) -> None:
        """See the class."""

    def free(self) -> int:
        """See the class."""

    def events(self, timeout: float) -> list[Event]:
        """See the class."""

    def stop(self, trials: Iterable[int]) -> None:
        """See the class."""

    def suspend(self, seconds: float) -> None:
        """See the class."""

    def close(self) -> None:
        """See the class."""
