"""When this run must have ended: `--time-limit`, and the end of the SLURM job that it runs in.

A run stops some time before: the margin, in which running trials save themselves. How long the longest step of a trial
takes is not known (a validation over many rows of a large model takes minutes), so the margin grows with the time that
there is: 5 % of it, at least a minute and at most five, and never more than half.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from meshtune.errors import Fault, InputError
from meshtune.plan.budget import Stop

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WORDS = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class TimeLimit:
    """A moment (seconds since 1970) at which this run is stopped, how long suspending may take then, and why."""

    moment: float
    grace: float
    reason: str

    def stop(self) -> Stop | None:
        """The request to stop, once the moment has come."""
        return Stop(self.reason, self.grace) if time.time() >= self.moment else None

    def left(self) -> float:
        """Seconds that suspending may take from now on, where it begins now."""
        return max(0.0, self.moment - time.time()) + self.grace


def time_limit(text: str | None, environment: Mapping[str, str]) -> TimeLimit | None:
    """The earlier of `--time-limit` from now and SLURM_JOB_END_TIME, or None where there is neither.

    Raises InputError on a text that is no length of time.
    """
    now = time.time()
    limits = []
    if text is not None:
        limits.append(_limit(now, now + seconds(text), f"the time limit of {text} is near"))
    end = _epoch(environment.get("SLURM_JOB_END_TIME"))
    if end is not None and end > now:  # else it was inherited from a job that has ended, as by a terminal multiplexer
        limits.append(_limit(now, end, "the end of the SLURM job is near"))
    return min(limits, key=lambda limit: limit.moment, default=None)


def _limit(now: float, end: float, reason: str) -> TimeLimit:
    whole = max(0.0, end - now)
    margin = min(max(0.05 * whole, 60.0), 300.0, whole / 2)
    return TimeLimit(end - margin, max(0.9 * margin, 1.0), reason)


def seconds(text: str) -> float:
    """`90m`, `3h30m`, `2d`, `45s`; also as SLURM writes it: minutes, `30:00`, `12:00:00`, `2-12`, `2-12:30:00`.

    Raises InputError.
    """
    if match := _WORDS.fullmatch(text.strip()):
        total = sum(int(count) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True) if count)
    elif match := _SLURM.fullmatch(text.strip()):
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        first = 3600 if days is not None or len(numbers) == 3 else 60
        total = int(days or 0) * 86400 + sum(n * u for n, u in zip(numbers, (first, first // 60, 1), strict=False))
    else:
        total = 0
    if total <= 0:
        allowed = "such as `90m`, `3h30m`, `2d`, or as SLURM writes it: minutes, `12:00:00`, `2-12:00:00`"
        raise InputError(Fault(f"`{text}` is no length of time; give one {allowed}", key="--time-limit"))
    return float(total)


def _epoch(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
