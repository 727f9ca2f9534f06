"""Numbers, points and durations as people read them. No library, and nothing is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHORT = {"learning_rate": "lr", "weight_decay": "wd"}


def counted(count: float, one: str, several: str = "") -> str:
    """`1 trial`, `1,200 trials`, `0.5 hours`; `several`: the plural, where it is not made by an s."""
    said = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{said} {one if count == 1 else several or f'{one}s'}"


def point(hyperparameters: Mapping[str, Any]) -> str:
    """Hyperparameters in one short line."""
    return " ".join(f"{SHORT.get(name, name)} {number(value, 3)}" for name, value in hyperparameters.items())


def number(value: Any, digits: int = 5) -> str:
    """A number as people write it; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
            mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:z.{digits}g}"
    return str(value)


def percent(share: float) -> str:
    """A share in percent, to two digits and without the sign `%`; 0 for what is below 0.005 %, a loss among it."""
    return f"{float(f'{100 * share:.2g}'):,.12g}" if share >= 5e-5 else "0"


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `3.2 h`."""
    if not math.isfinite(seconds) or seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
