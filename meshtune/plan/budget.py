"""When a search ends: at a limit of its budget, or where it is asked to. No budget ever influences a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from meshtune.system.text import counted

KILOWATT_HOUR = 3.6e6  # joules
EXHAUSTED = "the space is exhausted: every point of it was tried"  # which ends a search before its budget is spent


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
class StopWhen:
    """What ends a search before its budget is spent, from the trials that have ended, in their order.

    Attributes:
        no_improvement: so many trials after the last one that bettered the best by more than `noise`.
        noise: a gain in loss that may be luck. target: the best loss is as low.
        measured: noise that replicates showed, and after how many losses: it counts once there are more.
    """

    no_improvement: int | None = None
    noise: float = 0.0
    target: float | None = None
    measured: tuple[float, int] | None = None

    def reached(self, losses: Sequence[float]) -> Limit | None:
        """Whether the trials that have ended end the search: their losses in that order, infinite where there is none.

        The best that the next ones are held against is the last one that counted as an improvement, so that many small
        gains count once they add up to more than the noise.
        """
        noise = self.noise if self.measured is None or len(losses) <= self.measured[1] else self.measured[0]
        best, since = math.inf, 0
        for loss in losses:
            improved = loss < best - noise
            best, since = (loss, 0) if improved else (best, since + math.isfinite(best))
        if self.target is not None and min(losses, default=math.inf) <= self.target:
            return Limit(f"the target is reached: a loss of {self.target:g}", hold=True)
        if self.no_improvement is not None and since >= self.no_improvement:
            beyond = f" by more than {noise:.3g}" if noise else ""
            return Limit(f"no trial of the last {self.no_improvement} bettered the best{beyond}", hold=True)
        return None


@dataclass(frozen=True)
class Budget:
    """Limits on a study; the first one reached ends it. Trials count every proposal, hours and tokens recorded ones."""

    trials: int | None = None
    hours: float | None = None
    tokens: int | None = None
    kilowatt_hours: float | None = None
    stop_when: StopWhen = StopWhen()

    def trials_left(self, proposed: int) -> int:
        """Trials that may still be proposed."""
        return 2**31 if self.trials is None else max(0, self.trials - proposed)

    def reached(
        self, *, proposed: int, elapsed: float, tokens: int, joules: float = 0.0, losses: Sequence[float] = ()
    ) -> Limit | None:
        """The limit that is reached by so many proposals, search seconds, tokens and joules, and by the losses."""
        if self.hours is not None and elapsed >= self.hours * 3600:
            return Limit(f"the budget of {counted(self.hours, 'hour')} is spent", hold=True)
        if self.tokens is not None and tokens >= self.tokens:
            return Limit(f"the budget of {counted(self.tokens, 'token')} is spent", hold=True)
        if self.kilowatt_hours is not None and joules >= self.kilowatt_hours * KILOWATT_HOUR:
            return Limit(f"the budget of {counted(self.kilowatt_hours, 'kilowatt-hour')} is spent", hold=True)
        if (limit := self.stop_when.reached(losses)) is not None:
            return limit
        if self.trials_left(proposed) == 0:
            return Limit(f"{proposed} {'trial is' if proposed == 1 else 'trials are'} done", hold=False)
        return None
