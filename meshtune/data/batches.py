"""Reads prepared rows, memory-mapped, and says in which order they are trained. numpy only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from meshtune.errors import InputError
from meshtune.trial import DataRef

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """The rows of one side.

    Attributes:
        order: number of each row in the arrays; a row may stand there more than once (`mixture: repeat`).
        offsets: start of each row's tokens, and the end of the last: shape (all rows + 1,).
        all_tokens, all_trained: tokens of all rows end to end, and whether each is a label.
    """

    order: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    all_tokens: npt.NDArray[np.int32]
    all_trained: npt.NDArray[np.bool_]

    @classmethod
    def open(cls, ref: DataRef, side: Side) -> Rows:
        """The rows of a side. Raises InputError where the folder does not hold the data that `ref` names."""
        folder = Path(ref.folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: the prepared data cannot be read ({error})") from error
        if manifest["fingerprint"] != ref.fingerprint:
            raise InputError(f"{folder}: holds other data than the study was made with: run `meshtune check` again")
        return cls(
            np.load(folder / f"{side}.npy", mmap_mode="r"),
            np.load(folder / "offsets.npy", mmap_mode="r"),
            np.load(folder / "tokens.npy", mmap_mode="r"),
            np.load(folder / "trained.npy", mmap_mode="r"),
        )

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Tokens of row `index`, and which of them are labels."""
        row = self.order[index]
        inside = slice(self.offsets[row], self.offsets[row + 1])
        return np.array(self.all_tokens[inside]), np.array(self.all_trained[inside])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.asarray(self.offsets[self.order + 1] - self.offsets[self.order])

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.lengths.sum())


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which `rows` rows are trained in an epoch (from 0): the same for all trials of a study."""
    return np.random.default_rng([seed, 3, epoch]).permutation(rows)
