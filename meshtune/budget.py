"""When a search ends: at a limit of its budget, or where it is asked to. No budget ever influences a point."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A limit that is reached: in words, and whether trials that were proposed but not started are left pending."""

    reason: str
    hold: bool


@dataclass(frozen=True)
class Stop:
    """A request to end before the budget is spent.

    Attributes:
        reason: in words.
        seconds: None: running trials finish. A number: they are suspended, and have so many seconds to save themselves.
    """

    reason: str
    seconds: float | None = None


@dataclass(frozen=True)
class Budget:
    """Limits on a study; the first one reached ends it. Trials count every proposal, hours and tokens recorded ones."""

    trials: int | None = None
    hours: float | None = None
    tokens: int | None = None

    def trials_left(self, proposed: int) -> int:
        """Trials that may still be proposed."""
        return 2**31 if self.trials is None else max(0, self.trials - proposed)

    def reached(self, *, proposed: int, elapsed: float, tokens: int) -> Limit | None:
        """The limit that is reached by so many proposals, search seconds and tokens, or None."""
        if self.hours is not None and elapsed >= self.hours * 3600:
            return Limit(f"{self.hours:g} hours are spent", hold=True)
        if self.tokens is not None and tokens >= self.tokens:
            return Limit(f"{self.tokens:,} tokens are spent", hold=True)
        if self.trials_left(proposed) == 0:
            return Limit(f"{proposed} trials are done", hold=False)
        return None
