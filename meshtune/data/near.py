"""Near-duplicates across the split: held-out rows whose words are nearly those of a training row.

Two rows are near-duplicates where their sets of five-word sequences have a Jaccard index of at least 0.8. The search is
exact, without hashing of rows: a row that shares 0.8 of all sequences can miss at most a fifth of the held-out row's,
so that it holds one of any fifth and one more; the rarest are looked up.

Limits: letter case and punctuation do not count; at most 200 training rows are compared with a held-out one (those
that share most of its rarest sequences), so that data made from one long form can be undercounted, never overcounted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = 5  # of a sequence
ALIKE = 0.8
_COMPARED = 200
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, of mixed bits: 2**64 over the golden ratio

Hashes = NDArray[np.uint64]


def near(held: Sequence[str], training: Iterable[str]) -> NDArray[np.bool_]:
    """For each held-out text, whether a training text is a near-duplicate of it."""
    words = dict[str, int]()
    wanted = list(_sequences(held, words))
    known = np.unique(np.concatenate(wanted)) if wanted else np.empty(0, np.uint64)
    sizes, shared = list[int](), list[NDArray[np.int64]]()
    for found in _sequences(training, words):
        place = np.searchsorted(known, found)
        place = np.minimum(place, max(len(known) - 1, 0))
        shared.append(place[known[place] == found] if len(known) else place[:0])
        sizes.append(len(found))
    result = np.zeros(len(held), dtype=np.bool_)
    if not sum(map(len, shared)):
        return result
    # The training rows that hold each sequence, end to end, in the order of the sequences.
    sequence = np.concatenate(shared)
    row = np.repeat(np.arange(len(shared)), [len(one) for one in shared])[np.argsort(sequence, kind="stable")]
    often = np.bincount(sequence, minlength=len(known))
    starts = np.concatenate([[0], np.cumsum(often)])
    for number, hashes in enumerate(wanted):
        own = np.searchsorted(known, hashes)
        rare = own[np.argsort(often[own], kind="stable")][: len(own) - int(np.ceil(ALIKE * len(own))) + 1]
        hits = np.concatenate([row[starts[one] : starts[one + 1]] for one in rare])
        candidates, counts = np.unique(hits, return_counts=True)
        for candidate in candidates[np.argsort(-counts, kind="stable")][:_COMPARED].tolist():
            common = np.count_nonzero(np.isin(shared[candidate], own, assume_unique=True))
            if common >= ALIKE * (len(own) + sizes[candidate] - common):
                result[number] = True
                break
    return result


def _sequences(texts: Iterable[str], words: dict[str, int]) -> Iterator[Hashes]:
    """The different sequences of each text, as numbers; a shorter text is one sequence. `words` grows."""
    for text in texts:
        ids = np.array(
            [words.setdefault(word, len(words) + 1) for word in _WORD.findall(text.lower())], dtype=np.uint64
        )
        ids = np.pad(ids, (0, max(0, WORDS - len(ids))))
        count = len(ids) - WORDS + 1
        hashes = np.zeros(count, dtype=np.uint64)
        for offset in range(WORDS):
            hashes = (hashes ^ ids[offset : offset + count]) * _FACTOR  # wraps around, as is meant
            hashes ^= hashes >> np.uint64(29)
        yield np.unique(hashes)
