"""Prepared rows as text that people read, with what is learned told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meshtune.data.batches import Rows
from meshtune.trial import DataRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segment = tuple[str, bool]


def segments(ref: DataRef, tokenizer: PreTrainedTokenizerBase, count: int) -> list[list[Segment]]:
    """Training rows, evenly spaced over all, each as (text, whether it is learned) that joined are the whole row.

    A character whose tokens lie on both sides of a border is shown with the later ones. Raises InputError where the
    folder holds other data than `ref` says.
    """
    rows = Rows.open(ref, "train")
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)).tolist()
    return [segments_of(*rows[row], tokenizer) for row in chosen]


def segments_of(
    tokens: NDArray[np.int32], trained: NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase
) -> list[Segment]:
    """The segments of one row, not empty, alternately not learned and learned.

    Texts are cut at the borders, not decoded apart: a run alone may begin inside a character or lose its space.
    """

    def text_of(end: int) -> str:
        return str(tokenizer.decode(tokens[:end].tolist(), clean_up_tokenization_spaces=False))

    whole, found, begin = text_of(len(tokens)), list[Segment](), 0
    borders = [*(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(tokens)]
    for border in borders:
        end = _common(text_of(border), whole)
        found.append((whole[begin:end], bool(trained[border - 1])))
        begin = end
    return [segment for segment in found if segment[0]]


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
