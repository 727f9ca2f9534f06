"""The hyperparameters of a LoRA fine-tuning: their names, and the values that each may take.

Used to check a `space` and a `baseline` before anything is built. What is searched, and how, stands in
`meshtune.space.space` and `meshtune.config.presets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshtune.errors import nearest


@dataclass(frozen=True)
class Number:
    """A number above or at `low` and below or at `high`."""

    low: float
    high: float = float("inf")
    low_belongs: bool = False
    high_belongs: bool = False
    whole: bool = False

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = number and (self.low < value or (self.low_belongs and value == self.low))
        inside = inside and (value < self.high or (self.high_belongs and value == self.high))
        if inside and (not self.whole or float(value).is_integer()):
            return None
        what = "a whole number" if self.whole else "a number"
        low = f"{'at least' if self.low_belongs else 'above'} {self.low:g}"
        high = f" and {'at most' if self.high_belongs else 'below'} {self.high:g}" if self.high < float("inf") else ""
        return f"`{value}` is not allowed; {what} {low}{high} is"


@dataclass(frozen=True)
class Words:
    """One of some values; any text where none are named."""

    allowed: tuple[str | bool, ...] = ()

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if not self.allowed:
            return None if isinstance(value, str) else f"`{value}` is not allowed; text is"
        if any(value is word or (isinstance(word, str) and value == word) for word in self.allowed):
            return None
        words = [str(word).lower() if isinstance(word, bool) else word for word in self.allowed]
        return f"`{value}` is not allowed; allowed are {', '.join(words)}.{nearest(str(value), words)}"


_COUNT = Number(1, low_belongs=True, whole=True)
LORA: Mapping[str, Number | Words] = {
    "rank": _COUNT,
    "alpha": Number(0),
    "scale": Number(0),  # alpha over rank
    "dropout": Number(0, 1, low_belongs=True, high_belongs=True),  # 1 drops everything; Table 3 has it
    "learning_rate": Number(0),
    "step": Number(0),  # learning rate x alpha
    "lora_plus_ratio": Number(0),  # B's rate over A's
    "optimizer": Words(("adamw", "adamw_8bit", "muon")),
    "neftune_alpha": Number(0, low_belongs=True),
    "weight_decay": Number(0, low_belongs=True),
    "warmup_ratio": Number(0, 1, low_belongs=True),
    "lr_scheduler": Words(("constant", "linear", "cosine", "wsd")),
    "target_modules": Words(),  # all-linear, or names joined by commas
    "use_rslora": Words((True, False)),
    "use_dora": Words((True, False)),
    "init_lora_weights": Words((True, "gaussian", "orthogonal", "pissa", "olora")),
    "epochs": _COUNT,
    "batch_size": _COUNT,
}
WHOLE = tuple(name for name, kind in LORA.items() if isinstance(kind, Number) and kind.whole)
EXCLUSIVE = (("alpha", "scale"), ("learning_rate", "step"))  # one follows from the other


def unknown(name: str) -> str:
    """The message for a name that is none of them."""
    return f"unknown hyperparameter `{name}`; there are {', '.join(LORA)}.{nearest(name, LORA)}"


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, message) for everything wrong in a space or a baseline as it stands in the file.

    A value is a fixed one, a list of choices or an interval; what is none of these is left to the types of the config.
    """
    found = [(name, unknown(name)) for name in values if name not in LORA]
    for one, other in EXCLUSIVE:
        if one in values and other in values:
            found.append((other, f"`{one}` is given too, and one follows from the other: remove one of them"))
    for name, value in values.items():
        kind = LORA.get(name)
        if isinstance(kind, Words) and isinstance(value, Mapping):
            found.append((name, "has no order: give a list of choices"))
        elif kind is not None:
            found += [(name, message) for item in _items(value) if (message := kind.fault(item)) is not None]
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        ends = [value.get("low"), value.get("high")]
        return [end for end in ends if isinstance(end, int | float) and math.isfinite(end)]
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, bool | int | float | str)]
