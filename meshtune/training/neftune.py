"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on what the embedding gives, in training only.

To each number of a row of L tokens, d numbers wide, something even between -1 and 1 is added, times alpha / sqrt(L d).
L is the row's own length, whatever it is padded to; Transformers' own takes the padded one. What is drawn depends on
the seed and on the number of the micro-batch, so that a training that goes on, or is packed otherwise, draws the same
again. On a CPU both trainers draw the same, as far as a micro-batch is one portion of the packed trainer (`rows.py`);
a GPU draws its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

_NUMBER = (1 << 32) - 1  # in the place of a module's, which masks have


def draw(rows: int, width: int, seed: int, number: int, device: torch.device) -> torch.Tensor:
    """(rows, width), even between -1 and 1, float32; fewer rows of the same portion are the first of more on a CPU."""
    if device.type == "cpu":
        drawn = np.random.Generator(np.random.SFC64((seed, number, _NUMBER))).random((rows, width), dtype=np.float32)
        return torch.from_numpy(drawn).mul_(2).sub_(1)
    chance = torch.Generator(device).manual_seed(seed << 32 | number)
    return torch.rand((rows, width), generator=chance, device=device).mul_(2).sub_(1)


def scaled(noise: torch.Tensor, lengths: torch.Tensor, alpha: float) -> torch.Tensor:
    """Noise of tokens, each of a row that has so many."""
    return noise.mul_((alpha / (lengths * noise.shape[1]).sqrt())[:, None])


@contextlib.contextmanager
def adding(model: Any, noise: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Have what `noise` says of the embedding's output added to it; None: nothing is."""

    def added(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor | None:
        found = noise(output)
        return None if found is None else output + found.to(output.dtype)

    handle = model.get_input_embeddings().register_forward_hook(added)
    try:
        yield
    finally:
        handle.remove()
