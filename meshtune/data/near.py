"""Near-duplicates across the split: held-out rows whose words are nearly those of a training row.

Two rows are near-duplicates where their sets of five-word sequences have a Jaccard index of at least 0.8. The search is
exact, without sketches: a row that shares 0.8 of all sequences misses at most a fifth of the held-out row's, so that it
holds one of any fifth and one more; the rarest are looked up. Five seconds of one core for 50,000 rows of 160 words.

`templated` finds what is near in another way, in short rows and small sets too: rows filled into one template, which
differ in names and numbers alone.

Limits: letter case and punctuation do not count; at most 200 training rows are compared with a held-out one (those that
share its rarest sequences), so that data made from one long form can be undercounted, never overcounted.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

WORDS = 5  # of a sequence
ALIKE = 0.8
_COMPARED = 200
_LONGEST = 100  # words of a text that may be of a template
_CHUNK = 1000  # rows hashed at once
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, of mixed bits: 2**64 over the golden ratio

Hashes = NDArray[np.uint64]


def near(held: Sequence[str], training: Iterable[str]) -> NDArray[np.bool_]:
    """For each held-out text, whether a training text is a near-duplicate of it."""
    words = dict[str, int]()
    wanted = list(_sequences(held, words))
    result = np.zeros(len(held), dtype=np.bool_)
    if not wanted:
        return result
    known = np.unique(np.concatenate(wanted))
    sizes, shared = list[int](), list[NDArray[np.int64]]()
    for found in _sequences(training, words):
        place = np.minimum(np.searchsorted(known, found), len(known) - 1)
        shared.append(place[known[place] == found])
        sizes.append(len(found))
    if not shared:
        return result
    # The training rows that hold each sequence, end to end, in the order of the sequences.
    sequence = np.concatenate(shared)
    rows = np.repeat(np.arange(len(shared)), [len(one) for one in shared])[np.argsort(sequence, kind="stable")]
    often = np.bincount(sequence, minlength=len(known))
    starts = np.concatenate([[0], np.cumsum(often)])
    among = np.zeros(len(known), dtype=np.bool_)
    for number, hashes in enumerate(wanted):
        own = np.searchsorted(known, hashes)
        rare = own[np.argsort(often[own], kind="stable")][: len(own) - int(np.ceil(ALIKE * len(own))) + 1]
        among[own] = True
        hits = (rows[starts[one] : min(starts[one + 1], starts[one] + _COMPARED)].tolist() for one in rare.tolist())
        for candidate in list(dict.fromkeys(itertools.chain.from_iterable(hits)))[:_COMPARED]:
            common = np.count_nonzero(among[shared[candidate]])
            if common >= ALIKE * (len(own) + sizes[candidate] - common):
                result[number] = True
                break
        among[own] = False
    return result


def templated(held: Sequence[str], training: Callable[[], Iterable[str]]) -> NDArray[np.bool_]:
    """For each held-out text, whether a training text is the same but for numbers and for words that few rows have.

    Few: under 3 rows, or under 1 in 200. What is left must be two words and half of those that are no numbers, else it
    is no template. Texts beyond 100 words are none: `near` compares these. `training()` gives the texts, twice.
    """
    rows = Counter[str]()
    count = 0
    for text in itertools.chain(held, training()):
        rows.update(set(_short(text)))
        count += 1
    least = max(3, count // 200)

    def template(text: str) -> tuple[str, ...]:
        words = [word for word in _short(text) if not word.isdigit()]
        kept = tuple(word for word in words if rows[word] >= least)
        return kept if len(kept) >= max(2, len(words) / 2) else ()

    known = {template(text) for text in training()} - {()}
    return np.array([template(text) in known for text in held], dtype=np.bool_)


def _short(text: str) -> list[str]:
    """The words of a text; none of a long one."""
    words = _WORD.findall(text.lower()) if len(text) < _LONGEST * 10 else []
    return words if len(words) <= _LONGEST else []


def _sequences(texts: Iterable[str], words: dict[str, int]) -> Iterator[Hashes]:
    """The different sequences of each text, as numbers; a shorter text is one sequence. `words` grows."""
    remaining = iter(texts)
    while chunk := list(itertools.islice(remaining, _CHUNK)):
        numbered = [[words.setdefault(word, len(words) + 1) for word in _WORD.findall(text.lower())] for text in chunk]
        padded = [one + [0] * (WORDS - len(one)) for one in numbered]
        counts = np.array([len(one) - WORDS + 1 for one in padded])
        ids = np.fromiter(itertools.chain.from_iterable(padded), dtype=np.uint64)
        # Sequences begin everywhere but at the last four words of a text.
        row = np.repeat(np.arange(len(chunk)), counts)
        begin = np.arange(len(row)) + row * (WORDS - 1)
        hashes = np.zeros(len(row), dtype=np.uint64)
        for offset in range(WORDS):
            hashes = (hashes ^ ids[begin + offset]) * _FACTOR  # wraps around, as is meant
            hashes ^= hashes >> np.uint64(29)
        order = np.lexsort((hashes, row))
        hashes, row = hashes[order], row[order]
        first = np.concatenate([[True], (np.diff(row) != 0) | (hashes[1:] != hashes[:-1])])
        hashes, row = hashes[first], row[first]
        yield from np.split(hashes, np.searchsorted(row, np.arange(1, len(chunk))))
