"""What is decided about a pack while it trains: filled by the thread that hears the coordinator, read by the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from meshtune.trial import Decision, Request, Verdict

DECISION_SECONDS = 120.0  # a coordinator that is frozen, or cut off, must not hold a device for longer
LOOK_SECONDS = 0.2  # between looks whether to suspend


class Decisions:
    """Of one pack at a time. `seconds`: to wait for an answer at most."""

    def __init__(self, seconds: float | None = None):
        self.seconds = seconds
        self._changed = threading.Condition()
        self._pack: tuple[int, int] | None = None
        self._verdicts: dict[tuple[int, int], Verdict] = {}
        self._joining: list[Request] = []

    @property
    def pack(self) -> tuple[int, int]:
        """The pack's name: its first trial, and the attempt."""
        assert self._pack is not None
        return self._pack

    def begin(self, requests: Sequence[Request]) -> None:
        """Another pack, with what had been decided of it before."""
        known = {(each.trial, tokens): verdict for each in requests for tokens, verdict in each.decided}
        with self._changed:
            self._pack = (requests[0].trial, requests[0].attempt)
            self._verdicts, self._joining = known, []

    def end(self) -> list[Request]:
        """What has joined and was not taken in yet; nothing: the pack is over, and nothing can join it any more."""
        with self._changed:
            joining, self._joining = self._joining, []
            self._pack = self._pack if joining else None
        return joining

    def decide(self, decision: Decision) -> None:
        """An answer, where it is one to this attempt of this pack."""
        with self._changed:
            if (decision.pack, decision.attempt) == self._pack:
                self._verdicts.update({(trial, tokens): verdict for trial, tokens, verdict in decision.verdicts})
                self._changed.notify_all()

    def join(self, pack: int, request: Request) -> bool:
        """A request that joins this attempt of this pack; False: it is over."""
        with self._changed:
            if (pack, request.attempt) != self._pack:
                return False
            self._joining.append(request)
            self._verdicts.update({(request.trial, tokens): verdict for tokens, verdict in request.decided})
        return True

    def joined(self) -> list[Request]:
        """What has joined since this was last asked."""
        with self._changed:
            joining, self._joining = self._joining, []
        return joining

    def of(self, trial: int, tokens: int) -> Verdict | None:
        """What was decided of a trial at a rung; None: nothing yet."""
        return self._verdicts.get((trial, tokens))

    def wait(self, asked: Sequence[tuple[int, int]], stopping: Callable[[], bool]) -> bool:
        """Wait for answers about (trial, tokens); False: some are missing, by the time or since it is `stopping()`."""
        until = time.monotonic() + (DECISION_SECONDS if self.seconds is None else self.seconds)
        with self._changed:
            while not (there := all(rung in self._verdicts for rung in asked)):
                if stopping() or time.monotonic() > until:
                    break
                self._changed.wait(LOOK_SECONDS)
        return there
