"""Dropout masks of an adapter: a function of its seed, the pass and the module, whatever else is trained beside it.

A mask has no history: a training that goes on, or a layer that is computed twice, draws the same one again. Sixteen
bits decide about a value, four values a draw; so the rate is rounded to a 32768th. On a CPU the draws are NumPy's
SFC64, which is the fastest there is; on a GPU they are the device's own, so that masks differ between the two. Not run
on a GPU yet.
"""

from __future__ import annotations

import numpy as np
import torch

_BITS = 1 << 15
_ONE = 0x3F80  # 1.0 in bfloat16


def kept_share(rate: float) -> float:
    """Which share of the values stays, exactly; what stays is divided by it."""
    return _bound(rate) / _BITS


def mask(rows: int, width: int, rate: float, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """(rows, width) of 1 and 0, in bfloat16; about `rate` of them are 0. The key, of whole numbers from 0, decides."""
    bits = _draws((rows * width + 3) // 4, key, device).view(torch.int16)[: rows * width]
    # The sign of (draw - bound), spread over all bits, is all ones where the value stays.
    bits.bitwise_and_(_BITS - 1).sub_(_bound(rate)).bitwise_right_shift_(15).bitwise_and_(_ONE)
    return bits.view(torch.bfloat16).view(rows, width)


def _bound(rate: float) -> int:
    return round((1 - rate) * _BITS)


def _draws(count: int, key: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Whole numbers of 64 bits, of which the highest may be 0 in all."""
    if device.type == "cpu":
        return torch.from_numpy(np.random.SFC64(key).random_raw(count).view(np.int64))
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
    return torch.empty(count, dtype=torch.int64, device=device).random_(generator=generator)
