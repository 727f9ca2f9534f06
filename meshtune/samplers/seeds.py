"""Seeds that follow from (study's seed, trial number): the same in every process, unrelated to each other."""

from __future__ import annotations

import zlib

import numpy as np


def derived_seed(seed: int, number: int, name: str = "") -> int:
    """A 32-bit seed for trial `number` (and a parameter's name, where parameters are drawn one by one)."""
    return int(np.random.SeedSequence([seed, number, zlib.crc32(name.encode())]).generate_state(1)[0])
