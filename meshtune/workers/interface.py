"""The worker interface: what every place where trials run can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshtune.trial import Decision, Event, Request


class Worker(Protocol):
    """Where trials run; `meshtune.testing` holds its contract."""

    def free(self) -> int:
        """How many times `submit` may be called now."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Start them, together as one pack."""

    def events(self, timeout: float) -> list[Event]:
        """What has come, waiting up to `timeout` seconds for the first; exactly one outcome a request."""

    def decide(self, decision: Decision) -> None:
        """Answer a `Rung`. Where that attempt of the pack is over, nothing happens: what goes on there is another."""

    def join(self, pack: int, request: Request) -> bool:
        """Have one more request evaluated with a pack that runs, of the same attempt; where it cannot be taken in any
        more, right after it.

        While the pack waits at a rung it begins there. False: that attempt is over, and nothing comes of the request.
        """

    def suspend(self, seconds: float) -> None:
        """Let what runs save where it is, within so many seconds, and end without an outcome.

        `events` gives what ended by itself meanwhile; nothing else but `close` may follow.
        """

    def close(self) -> None:
        """End all that runs. What has not ended has no outcome."""
