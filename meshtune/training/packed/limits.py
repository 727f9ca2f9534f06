"""How many tokens a pass has: what a plan needs to know of packs, without PEFT."""

from __future__ import annotations

import torch

CPU_TOKENS = 1024  # of a pass: products are at their peak from 300 rows, and more at once only costs memory
GPU_TOKENS = 16384
LEAST = 256  # below, a core's products are not at their peak any more
# Tokens of a portion in bfloat16 are a multiple of this: on a CPU oneDNN compiles a product anew for every size of
# rows that it does not remember, and a GPU's units like eights.
LOW_MULTIPLE = 8


def token_limit(device: torch.device | str) -> int:
    """Tokens of a pass on a device, which only a single longer row exceeds."""
    return CPU_TOKENS if torch.device(device).type == "cpu" else GPU_TOKENS
