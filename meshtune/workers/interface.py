"""The worker seam: what every place where trials run can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from meshtune.trial import Event, Request


class Worker(Protocol):
    """The worker seam. `meshtune.testing` holds its contract.

    `free()`: how many times `submit` may be called now. `submit(requests)`: start them, together as one pack.
    `events(timeout)`: what has come, waiting up to `timeout` seconds for the first; exactly one outcome a request.
    `stop(trials)`: cancel them and what was submitted with them; they have no outcome. `suspend(seconds)`: let
    what runs save where it is, within so many seconds, and end without an outcome; `events` gives what ended by itself
    meanwhile, and nothing else but `close` may follow. `close()`: end all.
    """

    def submit(self, requests: Sequence[Request]) -> None:
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
