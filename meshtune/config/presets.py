"""Spaces: the presets, and one's own from study.yaml. Why the recommended one is as it is: docs/decisions.

`tribes2024` is Table 3 of the paper: rank 2^(r+1) for r in 1..8, dropout 0 for d = 1 else 10^(d-6) for d in 1..6 (the
table prints 10^(6-d), a slip: its own default d = 5 is 0.1), alpha an integer in 1..64, learning rate in 1e-6..1e-3
(log). Its last dropout is 1.0, which drops everything; it is kept, since the paper searched it. `tribes2024-128` is
the paper's first round, with ranks up to 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune.config.sections import PLACEHOLDERS, Interval, TrainingConfig
from meshtune.errors import Fault, InputError, nearest
from meshtune.space import hyperparameters
from meshtune.space.space import Dimension, Space, Value, choice, derive, integer, power_of_two, real, real_log2

DROPOUTS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Section = str | Mapping[str, Interval | tuple[Value, ...] | Value]

TRIBES = {"tribes2024": 512, "tribes2024-128": 128}  # the paper's presets, with the highest rank of each
PRESETS = ("recommended", *TRIBES)
RECOMMENDED_BASELINE = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "learning_rate": 2e-4}
BASELINES = ("common", "advised")  # words for it: the one of the preset, and what `meshtune advise` says
TRIBES_BASELINE = {"rank": 8, "alpha": 32, "dropout": 0.1, "learning_rate": 1e-5}


def recommended(*, whole_alpha: bool = True) -> Space:
    """Rank 4..256, scale (alpha over rank) 1/4..32, dropout 0, 0.05 or 0.1, step (learning rate x alpha) 1e-3..1."""
    return Space(
        (
            power_of_two("rank", 4, 256),
            real_log2("scale", 0.25, 32.0),
            choice("dropout", (0.0, 0.05, 0.1)),
            real("step", 1e-3, 1.0, log=True),
        ),
        whole_alpha=whole_alpha,
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


def build(section: Section, *, lora: bool, whole_alpha: bool = True, start: Mapping[str, Value] | None = None) -> Space:
    """The space of a `space` section whose names and values the config has checked.

    Of a mapping, what is named is searched or fixed; what is not stays at the recommended baseline's value, or that of
    `start`. `whole_alpha`: False for a study that was begun with real ones, see `alpha_is_whole`.
    """
    if isinstance(section, str):
        return tribes2024(TRIBES[section]) if section in TRIBES else recommended(whole_alpha=whole_alpha)
    usual: Mapping[str, Any] = RECOMMENDED_BASELINE
    if start is not None:
        usual = {name: start[name] for name in RECOMMENDED_BASELINE}
    named = _overlay(usual if lora else {}, section)
    fixed = _fixed(named)
    searched = {name: value for name, value in named.items() if name not in fixed}
    kinds = {"lora": lora, "whole_alpha": whole_alpha}
    return Space(tuple(_dimension(name, searched[name], **kinds) for name in searched), fixed, **kinds)


def alpha_is_whole(recorded: Mapping[str, Any] | None) -> bool:
    """Whether the search of a study with these fixed keys moves alpha in whole numbers (None: it has not begun).

    Earlier versions had real ones, wherever `integer: true` was not written.
    """
    space = (recorded or {}).get("space")
    if space is None:
        return True
    searched = space["searched"]
    if "alpha" in searched:
        return bool(searched["alpha"]["parameter"]["kind"] != "float")
    return "alpha" in space or "scale" not in {*searched, *space["fixed"]}


def baseline(
    section: Section,
    given: str | Mapping[str, Value] | None,
    *,
    lora: bool,
    training: TrainingConfig | None = None,
    whole_alpha: bool = True,
    start: Mapping[str, Value] | None = None,
) -> dict[str, Any] | None:
    """The point to beat, which may lie outside the space.

    What is given for it comes first, then what the space fixes, then the preset's baseline; what is searched beyond
    these starts at the value of `training`. `start`: a tool's own settings, in place of both. A command has one only
    where it is given. A word for it is the preset's: what is advised depends on the data, which are not there yet.
    """
    given = None if isinstance(given, str) else given
    own = {} if isinstance(section, str) else section
    if not lora:
        return {**_fixed(own), **given} if given else None
    preset: Mapping[str, Any] = RECOMMENDED_BASELINE
    if isinstance(section, str) and section in TRIBES:
        preset = TRIBES_BASELINE
    if start is not None:
        preset = {name: start[name] for name in {**dict.fromkeys(RECOMMENDED_BASELINE), **own} if name in start}
    values = _overlay(_overlay(preset, _fixed(own)), given or {})
    for name in own:
        if name not in values and training is not None and name in TrainingConfig.model_fields:
            value = getattr(training, name)
            values[name] = ",".join(value) if isinstance(value, tuple) else value
    return derive(values, whole_alpha=whole_alpha)


def warnings(space: Space) -> list[str]:
    """What a space says that its author may not have meant, in sentences."""
    for dimension in space.dimensions if space.lora else ():
        names = [str(value) for value in dimension.parameter.choices]
        if dimension.name == "target_modules" and all("," not in name and name != "all-linear" for name in names):
            listed = ", ".join(names)
            alone = f"one of {listed} alone" if len(names) > 2 else f"{names[0]} alone or {names[1]} alone"
            return [
                f"`space.target_modules: [{listed}]` gives each trial {alone}; for all of them together write "
                f"`[[{listed}]]`, or `training.target_modules: [{listed}]`"
            ]
    return []


def check_placeholders(command: Sequence[str], space: Space) -> None:
    """Refuse placeholders that nothing fills, and parameters that no placeholder uses."""
    used = {name for argument in command for name in re.findall(r"\{([A-Za-z_]\w*)\}", argument)}
    known = {dimension.name for dimension in space.dimensions} | set(space.fixed)
    faults = [
        f"`{{{name}}}` is no hyperparameter of the space ({', '.join(sorted(known))}).{nearest(name, known)}"
        for name in sorted(used - known - set(PLACEHOLDERS))
    ]
    faults += [f"`{{{name}}}` of the space is not used by the command" for name in sorted(known - used)]
    if faults:
        raise InputError([Fault(message, key="objective.command") for message in faults])


def _fixed(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a mapping fixes: single values, and lists of one."""
    values = {name: v[0] if isinstance(v, tuple) and len(v) == 1 else v for name, v in section.items()}
    return {name: value for name, value in values.items() if not isinstance(value, Interval | tuple)}


def _overlay(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others over them: of alpha and scale, and of learning_rate and step, only the upper one stays."""
    dropped = {b for pair in hyperparameters.EXCLUSIVE for a, b in (pair, pair[::-1]) if a in over}
    return {name: value for name, value in values.items() if name not in {*dropped, *over}} | dict(over)


def _dimension(name: str, value: Interval | tuple[Value, ...], *, lora: bool, whole_alpha: bool) -> Dimension:
    if isinstance(value, tuple):
        return choice(name, value)
    low, high = value.low, value.high
    if value.power_of == 2:
        return power_of_two(name, int(low), int(high))
    if lora and name == "scale" and value.log:
        return real_log2(name, low, high)
    whole = lora and name in hyperparameters.WHOLE
    if lora and name == "alpha" and whole_alpha and value.integer is None:  # an end such as 0.5 asks for real ones
        whole = low.is_integer() and high.is_integer()
    if value.integer or whole:
        return integer(name, int(low), int(high), log=value.log)
    return real(name, low, high, log=value.log)
