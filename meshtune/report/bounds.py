"""Which of the best trials sit on a bound of the space, and the wider space to search next, as YAML.

A bound that no value can pass (a dropout of 0, a rank of 1) is no news and is left out. The YAML holds the whole space,
since what a mapping does not name is fixed at the baseline.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshtune.report.trials import Status, ranked, value_of
from meshtune.space import hyperparameters
from meshtune.system.text import number

BEST = 5  # so many trials are looked at
NEAR = 0.01  # of the range, in the coordinate that is searched
WIDER = 10.0  # an interval in logarithms grows by this factor; powers of 2 by 4


@dataclass(frozen=True)
class OnBound:
    """`trials` of the best `of` sit on the `side` (lower, upper) bound `value` of a hyperparameter; `wider` is the
    entry to write."""

    name: str
    side: str
    value: str
    trials: tuple[int, ...]
    of: int
    wider: str

    @property
    def sentence(self) -> str:
        """In words."""
        count = len(self.trials)
        sit = "sits" if count == 1 else "sit"
        which = f"trial {self.trials[0]}" if count == 1 else f"trials {', '.join(map(str, self.trials))}"
        return f"{count} of the best {self.of} {sit} on the {self.side} bound of {self.name}, {self.value} ({which})."


def on_bounds(status: Status) -> list[OnBound]:
    """The bounds that good trials crowd at, in the order of the space: at least half of the best, and two at least.

    The very best alone says little: one point in five lies near a bound of a space of a few choices anyway.
    """
    best = ranked(status)[:BEST]
    found = list[OnBound]()
    if len(best) < 2:
        return found
    for entry in status.get("space") or ():
        for side in ("lower", "upper"):
            bound, wider = _bound(entry, side), _widen(entry, side, _most(status, entry["name"]))
            if bound is None or wider is None or _fault(status, entry["name"], _bound(wider, side)):
                continue
            there = [t["trial"] for t in best if _at(entry, bound, value_of(t["hyperparameters"], entry["name"]))]
            if len(there) > 1 and 2 * len(there) >= len(best):
                words = f"{entry['name']}: {_yaml(wider)}"
                found.append(OnBound(entry["name"], side, number(bound, 3), tuple(there), len(best), words))
    return found


def wider_space(status: Status, bounds: list[OnBound]) -> str:
    """The `space` section with these bounds moved out."""
    lines = ["space:"]
    for entry in status["space"]:
        for bound in bounds:
            if bound.name == entry["name"]:
                entry = _widen(entry, bound.side, _most(status, bound.name)) or entry
        lines.append(f"  {entry['name']}: {_yaml(entry)}")
    lines += [f"  {name}: {json.dumps(value)}" for name, value in status["space_fixed"].items()]
    return "\n".join(lines)


def _bound(entry: Mapping[str, Any], side: str) -> Any:
    choices = entry["choices"]
    if choices is None:
        return entry["low" if side == "lower" else "high"]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices):
        return None
    return min(choices) if side == "lower" else max(choices)


def _at(entry: Mapping[str, Any], bound: Any, value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    if entry["choices"] is not None or entry["integer"]:
        return math.isclose(value, bound, rel_tol=1e-9)
    place = math.log if entry["log"] else float
    span = place(entry["high"]) - place(entry["low"])
    return abs(place(value) - place(bound)) <= NEAR * span


def _most(status: Status, name: str) -> float:
    """What no hyperparameter of this name can use more of: ranks end at the dimensions of the model's modules."""
    return float(status.get("largest_rank") or math.inf) if name == "rank" else math.inf


def _widen(entry: Mapping[str, Any], side: str, most: float = math.inf) -> dict[str, Any] | None:
    """The entry with one bound moved out, at most to `most`, or None where it has none to move."""
    bound = _bound(entry, side)
    if bound is None:
        return None
    up = side == "upper"
    if entry["choices"] is not None:
        added = bound * 2 if up else bound / 2
        if all(isinstance(value, int) for value in entry["choices"]):
            added = int(added)
        if added <= 0 or added in entry["choices"] or added > most:
            return None  # there is no factor from 0 or below, nor a whole number to 0
        choices = [*entry["choices"], added] if up else [added, *entry["choices"]]
        return {**entry, "choices": choices}
    key = "high" if up else "low"
    if entry["power_of"] or entry["log"]:
        factor = 4 if entry["power_of"] else WIDER
        moved = bound * factor if up else bound / factor
    else:
        half = (entry["high"] - entry["low"]) / 2
        moved = bound + half if up else bound - half
    if entry["power_of"] and moved > most:
        moved = max(bound, 2 ** math.floor(math.log2(most)))
    if up:
        moved = max(bound, min(moved, most))
    if entry["integer"]:
        moved = round(moved)
        if entry["power_of"] or entry["log"]:
            moved = max(1, moved)  # 0 has no logarithm
    return {**entry, key: moved} if moved != bound else None


def _fault(status: Status, name: str, value: Any) -> bool:
    """Whether a LoRA hyperparameter may not have this value."""
    kind = hyperparameters.LORA.get(name) if status.get("objective") != "command" else None
    return kind is not None and kind.fault(value) is not None


def _yaml(entry: Mapping[str, Any]) -> str:
    if entry["choices"] is not None:
        return "[" + ", ".join(_scalar(value) for value in entry["choices"]) + "]"
    parts = [f"low: {_scalar(entry['low'])}", f"high: {_scalar(entry['high'])}"]
    if entry["power_of"]:
        parts.append(f"power_of: {entry['power_of']}")
    else:
        parts += ["log: true"] * entry["log"] + ["integer: true"] * entry["integer"]
        parts += ["integer: false"] * (entry["name"] == "alpha" and not entry["integer"])  # whole by default
    return "{" + ", ".join(parts) + "}"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return json.dumps(value)
