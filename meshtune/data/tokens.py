"""From rendered text to tokens, and which of them are learned; and back, for people to read.

Guarantees: the tokens before an answer are those that the model gets when it is asked, whatever the answer is; tokens
are told apart by position, never by value, so that a padding token equal to the end token loses no label. Nothing is
cut: what is too long is the caller's to drop. Where a token would span the border of an answer, each side has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meshtune.data.store import Rows
from meshtune.trial import DataRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text.

    Attributes:
        learned: what the loss counts, as [start, end) in characters, ascending; () with `everything`.
        answer: where the last answer begins, in characters.
        brings_first: the text has the first token (a Llama's <s>) itself.
        everything: all tokens are learned. empty: no answer holds text. shown: turns of the conversation in it.
    """

    text: str
    learned: tuple[tuple[int, int], ...]
    answer: int
    brings_first: bool = False
    everything: bool = False
    empty: bool = False
    shown: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Encoded:
    """A row as tokens.

    Attributes:
        tokens, trained: of one length; `trained` is true for the tokens that the loss counts.
        answer: number of the first token of the last answer.
    """

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    answer: int


def encode(
    rows: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, report: Callable[[str], None]
) -> Iterator[Encoded]:
    """Tokens of each row, in order; tokenizes in batches and reports how far it is."""
    first = lead(tokenizer)
    spelled = tokenizer.decode(first)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        borders = [_borders(row) for row in chunk]
        beginnings = iter(
            tokenize(tokenizer, [row.text[:end] for row, ends in zip(chunk, borders, strict=True) for end in ends])
        )
        for row, ends in zip(chunk, borders, strict=True):
            # A chat template brings its own first token, and so may a verbatim prompt.
            brought = row.brings_first or (first and row.text.startswith(spelled))
            yield _encoded(row, ends, [next(beginnings) for _ in ends], [] if brought else first, tokenizer)
        report(f"tokenized {start + len(chunk):,} of {len(rows):,} rows")


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Each text's tokens, nothing added before or behind."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _borders(row: Rendered) -> list[int]:
    """Where answers begin and end, in characters, and the end of the row."""
    inside = {row.answer, *(border for span in row.learned for border in span)}
    return [*sorted(inside - {0, len(row.text)}), len(row.text)]


def _encoded(
    row: Rendered,
    ends: Sequence[int],
    beginnings: Sequence[list[int]],
    lead: list[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Encoded:
    """The row's tokens. `beginnings`: the tokens of the text up to each of `ends`, as a model would be asked with."""
    tokens, at, before = list[int](), {0: 0}, 0
    for end, whole in zip(ends, beginnings, strict=True):
        # The longer text's tokens are right unless one spans the border; then the part has its own. (The parts' alone
        # would not do: some tokenizers begin every text with a space, and so would every answer.)
        fits = whole[: len(tokens)] == tokens
        tokens = whole if fits else tokens + tokenize(tokenizer, [row.text[before:end]])[0]
        at[end] = len(lead) + len(tokens)
        before = end
    ids = np.array([*lead, *tokens], dtype=np.int32)
    trained = np.full(len(ids), row.everything)
    trained[:1] = False  # nothing comes before the first token, so that no loss could count it
    for first, last in row.learned:
        trained[at[first] or len(lead) : at[last]] = True
    return Encoded(ids, trained, at[row.answer] or len(lead))


def lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before a text (a Llama's <s>); what it may put behind is left out."""
    plain, full = tokenizer("a", add_special_tokens=False)["input_ids"], list(tokenizer("a")["input_ids"])
    size = len(plain)
    return next((full[:start] for start in range(len(full)) if full[start : start + size] == plain), [])


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
