"""Prepared rows as the trainers read them: mapped into memory, one after the other or by number.

Guarantees: a row is the same array for every reader; the order of an epoch depends on the seed and the epoch only, so
that all trials of a study see the same batches. NumPy alone. Does not batch, pad or shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshtune.data.store import SideArrays, open_side, read_manifest
from meshtune.errors import Fault, InputError
from meshtune.trial import DataRef

Side = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one side. `rows[i]` is the row's tokens (int32) and which of them are learned (bool)."""

    arrays: SideArrays

    @classmethod
    def open(cls, ref: DataRef, side: Side) -> Rows:
        """Open a side. Raises InputError where the folder holds other data than `ref` says."""
        folder = Path(ref.folder)
        held = read_manifest(folder)["fingerprint"]
        if held != ref.fingerprint:
            what = (
                f"holds other data than the study was made with (fingerprint {held[:12]}, not {ref.fingerprint[:12]})"
            )
            raise InputError(Fault(what, folder))
        return cls(open_side(folder, side))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.arrays.starts) - 1

    def __getitem__(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens and mask of a row; IndexError beyond the last, so that a loop over the rows ends."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        begin, end = self.arrays.starts[row], self.arrays.starts[row + 1]
        return self.arrays.tokens[begin:end], self.arrays.trained[begin:end]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return len(self.arrays.tokens)

    @property
    def label_tokens(self) -> int:
        """Tokens that the loss counts."""
        return int(np.count_nonzero(self.arrays.trained))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.arrays.starts)


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of n rows in an epoch (from 0): a permutation, the same for the same seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)
