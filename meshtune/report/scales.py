"""Where numbers and categories stand on an axis of a drawing, and the round values that are written beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.system.text import number

ACROSS, UP = 84, 46  # pixels that one tick has for itself
NARROW, CAPITAL, BROAD = "iljtfrI.,:;'|!()[]-/ ", "ABCDEFGHJKLNOPQRSTUVXYZ", "mwMW%@=<>+"


def text_width(text: str, size: float = 13) -> float:
    """About as wide as the text is in a sans-serif font, rather too wide than too narrow."""
    shares = (0.4 if c in NARROW else 0.74 if c in CAPITAL else 0.95 if c in BROAD else 0.63 for c in text)
    return size * sum(shares)


def shortened(text: str, room: float, size: float = 13) -> str:
    """The text, cut so that it fits."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


@dataclass(frozen=True)
class Axis:
    """From `low` at pixel `start` to `high` at `end`; of a logarithmic one these are logarithms to base 10.

    `ticks`: places in pixels and what is written there. `places`: of categories; none of numbers.
    """

    low: float
    high: float
    log: bool
    start: float
    end: float
    places: Mapping[Any, int]
    ticks: tuple[tuple[float, str], ...] = ()

    def at(self, value: Any) -> float:
        """The pixel of a value."""
        number = float(self.places[value]) if self.places else math.log10(value) if self.log else float(value)
        return self.start + (number - self.low) / (self.high - self.low) * (self.end - self.start)


def axis(given: Mapping[str, Any], values: Sequence[Any], start: float, end: float, room: float) -> Axis:
    """An axis as a plotly layout asks for it, for these values. `room`: pixels for one tick."""
    known = [value for value in values if value is not None]
    if given.get("type") == "category" or any(isinstance(value, str) for value in known):
        names = list(given.get("categoryarray") or dict.fromkeys(known))
        made = Axis(-0.6, len(names) - 0.4, False, start, end, {name: place for place, name in enumerate(names)})
        return _with_ticks(made, [(name, str(name)) for name in names])
    log = given.get("type") == "log"
    numbers = [math.log10(v) if log else float(v) for v in known if math.isfinite(v) and (v > 0 or not log)]
    low, high = given.get("range") or _span(numbers, zero=given.get("rangemode") == "tozero")
    made = Axis(float(low), float(high), log, start, end, {})
    most = max(2, int(abs(end - start) / room))
    if given.get("tickvals") is not None:
        texts = given.get("ticktext") or [written(value) for value in given["tickvals"]]
        return _with_ticks(made, list(zip(given["tickvals"], map(str, texts), strict=True)))
    if log:
        most = max(most, int(abs(end - start) / 60))
        return _with_ticks(made, [(v, written(v)) for v in _few(decades(10**made.low, 10**made.high), most)])
    whole = given.get("dtick") == 1 or (bool(known) and all(isinstance(value, int) for value in known))
    return _with_ticks(made, round_values(made.low, made.high, most, whole=whole))


def _span(numbers: Sequence[float], *, zero: bool) -> tuple[float, float]:
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if zero:
        return min(low, 0.0), high * 1.04 or 1.0
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _with_ticks(made: Axis, ticks: Sequence[tuple[Any, str]]) -> Axis:
    ends = sorted((made.start, made.end))
    placed = tuple(
        (place, text) for value, text in ticks if ends[0] - 0.6 <= (place := made.at(value)) <= ends[1] + 0.6
    )
    return Axis(made.low, made.high, made.log, made.start, made.end, made.places, placed)


def round_values(low: float, high: float, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
    """At most about so many round values between two, as numbers and as they are written."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = next(one for one in steps if one >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    count = math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1
    first = math.ceil(low / step - 1e-9)
    return [(step * place, written(step * place, step)) for place in range(first, first + count)]


def written(value: float, step: float | None = None) -> str:
    """A tick's number: with as many decimals as the step between ticks needs; large ones in thousands and millions."""
    if value == 0:
        return "0"
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.4g}{letter}"
    if step is None or step < 1e-4:
        return number(value, 4)
    return f"{value:.{_decimals(step)}f}"


def _decimals(step: float) -> int:
    return next((digits for digits in range(7) if abs(round(step, digits) - step) < 1e-9 * step), 7)


def decades(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis; at least three of them, where there are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [step * 10.0**exponent for exponent in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9)]
        if len(inside) >= 3:
            break
    return inside or [low, high]


def _few(ticks: Sequence[float], most: int) -> list[float]:
    """Every one, every second, ..: so that they have room."""
    return list(ticks[:: math.ceil(len(ticks) / max(most, 2))])
