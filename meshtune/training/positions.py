"""Models whose rotary positions depend on the longest row of a pass: LongRoPE and dynamic NTK.

Up to the length that they were first trained for, no row feels another. Beyond it a row is computed in a pass of its
own, so that its loss is the one that it has alone, whatever it is batched or packed with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def alike(config: Any) -> float:
    """Tokens up to which no row's positions depend on the others'; infinite for all other models."""
    text = config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    return min(
        (
            rope.get("original_max_position_embeddings") or text.max_position_embeddings
            for rope in (given, *given.values())  # one, or one a kind of layer
            if isinstance(rope, Mapping) and rope.get("rope_type") in ("dynamic", "longrope")
        ),
        default=math.inf,
    )


def forget_lengths(model: Any) -> None:
    """Let the next pass know nothing of those before it: dynamic NTK keeps what the longest of them needed."""
    for part in model.modules():
        for name in vars(part):
            if name.endswith("max_seq_len_cached"):
                setattr(part, name, 0)
