"""Dropout masks of an adapter: a function of its seed, the pass and the module, whatever else is trained beside it.

A mask has no history: a training that goes on, or a layer that is computed twice, draws the same one again. Sixteen
bits decide about a value, four values a draw; so the rate is rounded to a 32768th.
"""

from __future__ import annotations

import torch

_BITS = 1 << 15
_WORD = (1 << 64) - 1
_ONE = 0x3F80  # 1.0 in bfloat16


def kept_share(rate: float) -> float:
    """Which share of the values stays, exactly; what stays is divided by it."""
    return round((1 - rate) * _BITS) / _BITS


def mask(rows: int, width: int, rate: float, key: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """(rows, width) of 1 and 0, in bfloat16, on the generator's device; `rate` of them are 0.

    The generator is seeded with the key, so it need not be kept.
    """
    generator.manual_seed(_mixed(key))
    count = rows * width
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device=generator.device).random_(generator=generator)
    bits = drawn.view(torch.int16)[:count]
    # The sign of (draw - bound), spread over all bits, is all ones where the value stays.
    bits.bitwise_and_(_BITS - 1).sub_(round((1 - rate) * _BITS)).bitwise_right_shift_(15).bitwise_and_(_ONE)
    return bits.view(torch.bfloat16).view(rows, width)


def _mixed(key: tuple[int, ...]) -> int:
    """A seed in which every bit depends on the whole key (the finalizer of SplitMix64, once a number)."""
    state = 0
    for number in key:
        state = (state + number + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state
