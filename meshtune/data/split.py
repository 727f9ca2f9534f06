"""Which rows of which source make up the data, and which are for training, validation and test. Numbers only: rows are
indices into one pool, what must stay together are groups.

Mixtures:
- `union`: all rows, whatever the shares; with `rows`, that many at the pool's own shares.
- `cap`: the largest mix at exactly the shares without a repeat; with `rows`, that many.
- `repeat`: as the authors of the paper drew (`draw`): every side with replacement at exactly the shares, the training
  rows first, each further side from rows of which neither the row nor a text equal to it was drawn before.

Counts: a share of rows is rounded down; what rounding leaves over goes to the sources with the largest remainders.
So 67,013 rows at validation 0.2 give `repeat` 53,610 and 13,402 rows, as the paper's authors had (one row is lost,
where `union` and `cap` give it to training). Everything is repeatable from the generator that is passed in.

Guarantees of the split: no group stands on two sides; validation and test have the mix's shares of the sources. A side
may come out smaller than wanted where only large groups are left, never larger. Equal text means the whole row, prompt
and response, as the model reads it, whatever the white space; the same question with another answer is another text.
Near-duplicates are not moved (`near` counts them).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meshtune.errors import InputError

Indices = NDArray[np.int64]

# Shares such as 0.29 are not exact in binary: 0.29 * 100 must still count as 29.
_FUZZ = 1e-6


def part(total: int, share: float) -> int:
    """The share of a number of rows, rounded down."""
    return int(total * share + _FUZZ)


def allocate(total: int, shares: Sequence[float]) -> list[int]:
    """`total` rows by shares (of any sum), by largest remainders; ties go to the earlier source. Adds up to total."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value + _FUZZ) for value in exact]
    order = sorted(range(len(shares)), key=lambda source: counts[source] - exact[source])
    for source in order[: total - sum(counts)]:
        counts[source] += 1
    return counts


def largest(sizes: Sequence[int], shares: Sequence[float]) -> int:
    """Rows of the largest mix at these shares without a repeat: 50,036 of 52,002 and 15,011 at 0.7 and 0.3."""
    return min(int(size * sum(shares) / share + _FUZZ) for size, share in zip(sizes, shares, strict=True))


def choose(
    policy: Literal["union", "cap"],
    sizes: Sequence[int],
    shares: Sequence[float] | None,
    rows: int | None,
    rng: np.random.Generator,
) -> Indices:
    """Rows of the mix without repeats, sorted: indices into the pool of all sources one after the other.

    Args:
        sizes: rows of each source. shares: of each source, or None for the sizes' own.
        rows: at most so many, or None for the largest mix.
    """
    weights = list(sizes) if policy == "union" or shares is None else list(shares)
    most = sum(sizes) if policy == "union" else largest(sizes, weights)
    counts = allocate(most if rows is None else min(rows, most), weights)
    starts = np.cumsum([0, *sizes[:-1]])
    chosen = [
        start + np.sort(rng.permutation(size)[:count]) for start, size, count in zip(starts, sizes, counts, strict=True)
    ]
    return np.concatenate(chosen).astype(np.int64)


def draw(
    sources: Indices, groups: Indices, shares: Sequence[float], counts: Sequence[int], rng: np.random.Generator
) -> list[Indices]:
    """Sides of `counts` rows each, drawn with replacement at the shares; no group of equal texts on two sides.

    Args:
        sources, groups: for each row of the pool, its source and its group of equal texts.
        counts: rows of each side, in the order in which they are drawn: training first.
    """
    free = np.ones(len(sources), dtype=bool)
    sides = []
    for count in counts:
        drawn = []
        for source, wanted in enumerate(allocate(count, shares)):
            pool = np.flatnonzero(free & (sources == source))
            if wanted and not len(pool):
                sizes = [int(size) for size in np.bincount(sources, minlength=len(shares))]
                raise InputError(
                    f"`mixture: repeat` cannot be had with {sum(counts):,} rows: drawing used up all {sizes[source]:,} "
                    f"rows of source {source + 1}, and none is left for the next side. Write a lower `data.rows`; "
                    f"`mixture: cap` gives {largest(sizes, shares):,} rows without repeats."
                )
            drawn.append(rng.choice(pool, wanted) if wanted else pool[:0])
        side = np.sort(np.concatenate(drawn)).astype(np.int64)
        free &= ~np.isin(groups, groups[side])
        sides.append(side)
    return sides


def group(texts: Iterable[str]) -> Indices:
    """A number for each text, equal for equal texts; white space of any kind and length counts as one space."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(" ".join(text.split()), len(numbers)) for text in texts), dtype=np.int64)


def merge(labels: Sequence[Iterable[Hashable]]) -> Indices:
    """Groups of rows that share a label of any kind, directly or through others; numbered by their first rows.

    Args:
        labels: for each kind (text, conversation, ..) a label for each row.
    """
    parents = list[int]()

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for kind in labels:
        first = dict[Hashable, int]()
        for row, label in enumerate(kind):
            if row == len(parents):
                parents.append(row)
            one, other = root(first.setdefault(label, row)), root(row)
            parents[max(one, other)] = min(one, other)
    roots = np.array([root(row) for row in range(len(parents))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def side_sizes(
    total: int, validation: float | int | None, test: float | int | None, *, exact: bool
) -> tuple[int, int, int]:
    """Rows of training, validation and test: a share (a float), a number (an int), or None: none of these rows.

    `exact`: training is the rounded-down rest of the shares, so that each side has the same rounding; otherwise it is
    all that is left. Raises InputError where validation or training is left without rows.
    """
    counts = [part(total, side) if isinstance(side, float) else side or 0 for side in (validation, test)]
    shares = sum(side for side in (validation, test) if isinstance(side, float))
    training = total - sum(counts)
    if exact:
        training = part(total, 1 - shares) - sum(side for side in (validation, test) if isinstance(side, int))
    if validation is not None and counts[0] < 1:
        raise InputError(
            f"`data.validation: {validation}` of {total:,} rows leaves no validation row. "
            "Give a larger share, a number of rows, or more data."
        )
    if training < 1:
        raise InputError(
            f"no row is left to train on: of {total:,} rows, validation takes {counts[0]:,} and test {counts[1]:,}. "
            "Lower `data.validation` or `data.test`, or give more data."
        )
    return training, counts[0], counts[1]


def smaller(sources: Indices, count: int, rng: np.random.Generator) -> Indices:
    """At most `count` rows of a side, sorted: indices into it. The shares of its sources stay.

    Args:
        sources: for each row of the side, its source.
    """
    if count >= len(sources):
        return np.arange(len(sources), dtype=np.int64)
    counts = allocate(count, np.bincount(sources).tolist())
    kept = [rng.permutation(np.flatnonzero(sources == source))[:wanted] for source, wanted in enumerate(counts)]
    return np.sort(np.concatenate(kept)).astype(np.int64)


def split(
    sources: Indices,
    groups: Indices,
    validation: int,
    test: int,
    rng: np.random.Generator,
    together: str = "equal texts",
) -> tuple[Indices, Indices, Indices]:
    """Indices of training, validation and test rows, each sorted. Test is filled first, then validation.

    Args:
        sources, groups: for each row of the mix, its source and its group.
        validation, test: rows wanted. Raises InputError where no row can be had for a side that wants some.
        together: what a group is, for messages.
    """
    held = np.bincount(sources)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    free = [members[number] for number in rng.permutation(len(members))]
    sides = []
    for name, count in (("test", test), ("validation", validation)):
        wanted = np.array(allocate(count, held.tolist()))
        taken, left = [], []
        for rows in free:
            needs = np.bincount(sources[rows], minlength=len(held))
            if (needs <= wanted).all():
                wanted -= needs
                taken.append(rows)
            else:
                left.append(rows)
        if count and not taken:
            raise InputError(
                f"no row is left for `data.{name}`: {together} stay on one side, and of the {len(members):,} groups "
                f"that {len(sources):,} rows make, none is left that fits into {count:,} rows (the smallest has "
                f"{min(map(len, members)):,}). Raise `data.{name}`, give more rows, or remove repeats."
            )
        free = left
        sides.append(np.sort(np.concatenate(taken)) if taken else np.empty(0, dtype=np.int64))
    if not free:
        raise InputError("no row is left to train on: lower `data.validation` or `data.test`, or give more data")
    return np.sort(np.concatenate(free)), sides[1], sides[0]
