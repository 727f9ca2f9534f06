"""What runs together in one place, the fence around it, and the messages to it.

Words of another attempt, or to one, do not count: each has the pack's name, its first trial and the attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune.trial import Decision, Event, Outcome, Progress, Request, Rung, from_json, to_json

DECIDE, JOIN = "decide", "join"  # keys of messages


class Running:
    """A pack in one place. `requests`: those without an outcome, by trial; a pack with none is over."""

    def __init__(self, requests: Sequence[Request] = ()):
        self.requests = {request.trial: request for request in requests}
        self._name = (requests[0].trial, requests[0].attempt) if requests else None

    def __bool__(self) -> bool:
        return bool(self.requests)

    def is_pack(self, pack: int, attempt: int) -> bool:
        """Whether this attempt of this pack runs here."""
        if self.requests and self._name == (pack, attempt):
            return True
        joined = self.requests.get(pack)  # too late for its pack: it has become one of its own
        return joined is not None and joined.attempt == attempt

    def join(self, pack: int, request: Request) -> bool:
        """Take one more in; False: that attempt is over here."""
        runs = self.is_pack(pack, request.attempt)
        if runs:
            self.requests[request.trial] = request
        return runs

    def event(self, line: str) -> Event | None:
        """The event of a line, where it is of what runs here; what has ended with it is taken out."""
        event = from_json(line)
        match event:
            case Rung():
                return event if self.is_pack(event.pack, event.attempt) else None
            case Progress() | Outcome():
                request = self.requests.get(event.trial)
                if request is None or request.attempt != event.attempt:
                    return None
                if isinstance(event, Outcome):
                    del self.requests[event.trial]
                return event
        return None


def deciding(decision: Decision) -> dict[str, Any]:
    """The message that tells what waits at a rung."""
    return {DECIDE: json.loads(to_json(decision))}


def joining(pack: int, request: Request) -> dict[str, Any]:
    """The message that has a request evaluated with a pack that runs."""
    return {JOIN: {"pack": pack, "request": json.loads(to_json(request))}}


def addressed(message: Mapping[str, Any]) -> Decision | tuple[int, Request]:
    """What one of these two messages says. Raises ValueError on another."""
    if DECIDE in message and isinstance(decision := from_json(json.dumps(message[DECIDE])), Decision):
        return decision
    if JOIN in message and isinstance(request := from_json(json.dumps(message[JOIN]["request"])), Request):
        return int(message[JOIN]["pack"]), request
    raise ValueError(f"neither a decision nor a request that joins: {message!r}")


def pack_of(message: Mapping[str, Any]) -> tuple[int, int]:
    """The name of the pack that one of these two messages is to."""
    match addressed(message):
        case Decision(pack=pack, attempt=attempt):
            return pack, attempt
        case pack, request:
            return pack, request.attempt
