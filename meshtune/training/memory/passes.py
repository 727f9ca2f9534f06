"""How many tokens a pass of the packed trainer has, where memory is too short for as many as suit the device."""

from __future__ import annotations

from dataclasses import replace

from meshtune.space.space import Space
from meshtune.training.memory.check import Setting, largest
from meshtune.training.memory.packs import LEAST
from meshtune.training.packed.rows import token_limit


def fewer_tokens(space: Space, setting: Setting, available: int) -> int | None:
    """As many as the largest trial of a space has room for, or on a GPU, which one alone would leave idle, two of them.

    None: as many as usual. Where even the fewest do not fit, these are given.

    Args:
        setting: of the packed trainer. available: bytes of a process.
    """
    point = largest(space, setting).hyperparameters
    packs, member = setting.packs(point), setting.recipe(point)
    wanted = max(2, setting.pack) if setting.device.startswith("cuda") else setting.pack
    tokens = LEAST
    for count in dict.fromkeys((wanted, setting.pack)):
        tokens = packs.pass_tokens([member] * count, available)
        if packs.memory([replace(member, pass_tokens=tokens)] * count).total <= available:
            break
    return tokens if tokens < token_limit(setting.device) else None
