"""What MADS's proposals follow from, beside the study's trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from meshtune.samplers.allowed import Allows
from meshtune.samplers.earlier_points import WarmStart
from meshtune.samplers.outcomes import Pruned

Barrier = Literal["progressive", "extreme"]


@dataclass(frozen=True)
class Settings:
    """The arguments of `MadsSampler`, see there."""

    seed: int
    x0: Mapping[str, Any] = field(default_factory=dict)
    block_size: int | None = None
    n_startup: int | None = None
    warm_start: WarmStart | None = None
    barrier: Barrier = "progressive"
    a_priori: Allows | None = None
    hidden: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    pruned: Pruned = "failed"
