"""Spaces: the presets, and one's own from study.yaml. Why the recommended one is as it is: docs/decisions.

`tribes2024` is Table 3 of the paper: rank 2^(r+1) for r in 1..8, dropout 0 for d = 1 else 10^(d-6) for d in 1..6 (the
table prints 10^(6-d), a slip: its own default d = 5 is 0.1), alpha an integer in 1..64, learning rate 1e-6..1e-3 in log.
Its last dropout is 1.0, which drops everything; it is kept, since the paper searched it. `tribes2024-128` is the
paper's first round, with ranks up to 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune.config import Interval
from meshtune.errors import Fault, InputError, nearest
from meshtune.space import Dimension, Space, Value, choice, integer, power_of_two, real, real_log2

PLACEHOLDERS = ("trial", "seed", "folder")
LORA_NAMES = (
    "rank",
    "alpha",
    "scale",
    "dropout",
    "learning_rate",
    "step",
    "weight_decay",
    "warmup_ratio",
    "lr_scheduler",
    "target_modules",
    "rslora",
    "epochs",
    "batch_size",
)
WHOLE = ("rank", "epochs", "batch_size")
DROPOUTS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Section = str | Mapping[str, Interval | tuple[Value, ...] | Value]

RECOMMENDED_BASELINE = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "learning_rate": 2e-4}
TRIBES_BASELINE = {"rank": 8, "alpha": 32, "dropout": 0.1, "learning_rate": 1e-5}


def recommended() -> Space:
    """Rank 4..256, scale (alpha over rank) 1/4..32, dropout 0, 0.05 or 0.1, step (learning rate x alpha) 1e-3..1."""
    return Space(
        (
            power_of_two("rank", 4, 256),
            real_log2("scale", 0.25, 32.0),
            choice("dropout", (0.0, 0.05, 0.1)),
            real("step", 1e-3, 1.0, log=True),
        )
    )


def tribes2024(max_rank: int = 512) -> Space:
    """Table 3 of the paper; see the module."""
    return Space(
        (
            power_of_two("rank", 4, max_rank),
            choice("dropout", DROPOUTS),
            integer("alpha", 1, 64),
            real("learning_rate", 1e-6, 1e-3, log=True),
        )
    )


def build(section: Section, *, lora: bool) -> Space:
    """The space of a config's `space` section. Raises InputError with every fault that the section's types let pass."""
    if not isinstance(section, str):
        return _own_lora(section) if lora else _space(section, {}, lora=False)
    if not lora:
        raise InputError(Fault("a command's space is a mapping such as {x: {low: 0, high: 1}}", key="space"))
    match section:
        case "recommended":
            return recommended()
        case "tribes2024":
            return tribes2024()
        case "tribes2024-128":
            return tribes2024(128)
    known = ("recommended", "tribes2024", "tribes2024-128")
    raise InputError(
        Fault(f"unknown preset `{section}`; there are {', '.join(known)}.{nearest(section, known)}", key="space")
    )


def baseline(section: Section, given: Mapping[str, Value] | None, *, lora: bool) -> dict[str, Any] | None:
    """The point to beat: the preset's, changed by what is given; for a command what is given, else None."""
    if not lora:
        return dict(given) if given else None
    preset = TRIBES_BASELINE if isinstance(section, str) and section.startswith("tribes") else RECOMMENDED_BASELINE
    values: dict[str, Any] = {**preset, **(given or {})}
    if unknown := [name for name in values if name not in LORA_NAMES]:
        raise InputError([Fault(_unknown(name), key=f"baseline.{name}") for name in unknown])
    if "scale" in values:
        values["alpha"] = values.pop("scale") * values["rank"]
    if "step" in values:
        values["learning_rate"] = values.pop("step") / values["alpha"]
    return values


def check_placeholders(command: Sequence[str], space: Space) -> None:
    """Refuse placeholders that nothing fills, and parameters that no placeholder uses."""
    used = {name for argument in command for name in re.findall(r"\{([A-Za-z_]\w*)\}", argument)}
    known = {dimension.name for dimension in space.dimensions} | set(space.fixed)
    faults = [
        Fault(f"`{{{name}}}` is no hyperparameter of the space ({', '.join(sorted(known))}).{nearest(name, known)}")
        for name in sorted(used - known - set(PLACEHOLDERS))
    ]
    faults += [Fault(f"`{{{name}}}` of the space is not used by the command") for name in sorted(known - used)]
    if faults:
        raise InputError([Fault(fault.message, key="objective.command") for fault in faults])


def _own_lora(section: Mapping[str, Any]) -> Space:
    """A mapping: what is named is searched or fixed; what is not stays at the recommended baseline's value."""
    fixed: dict[str, Value] = dict(RECOMMENDED_BASELINE)
    if "scale" in section:
        fixed.pop("alpha")
    if "step" in section:
        fixed.pop("learning_rate")
    faults = [Fault(_unknown(name), key=f"space.{name}") for name in section if name not in LORA_NAMES]
    for one, other in (("alpha", "scale"), ("learning_rate", "step")):
        if one in section and other in section:
            faults.append(Fault(f"give `{one}` or `{other}`, not both: one follows from the other", key=f"space.{one}"))
    if faults:
        raise InputError(faults)
    return _space(section, fixed, lora=True)


def _space(section: Mapping[str, Any], fixed: dict[str, Value], *, lora: bool) -> Space:
    dimensions = []
    for name, value in section.items():
        fixed.pop(name, None)
        if isinstance(value, Interval):
            dimensions.append(_dimension(name, value, lora=lora))
        elif isinstance(value, tuple):
            dimensions.append(choice(name, value))
        else:
            fixed[name] = value
    if not dimensions:
        raise InputError(Fault("nothing is searched: give at least one interval or list of choices", key="space"))
    return Space(tuple(dimensions), fixed, lora=lora)


def _dimension(name: str, interval: Interval, *, lora: bool) -> Dimension:
    low, high = interval.low, interval.high
    if interval.power_of == 2:
        return power_of_two(name, int(low), int(high))
    if lora and name == "scale" and interval.log:
        return real_log2(name, low, high)
    whole = interval.integer if interval.integer is not None else lora and name in WHOLE
    if whole:
        return integer(name, int(low), int(high), log=interval.log)
    return real(name, low, high, log=interval.log)


def _unknown(name: str) -> str:
    return f"unknown hyperparameter `{name}`; there are {', '.join(LORA_NAMES)}.{nearest(name, LORA_NAMES)}"
