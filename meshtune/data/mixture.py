"""Which rows of which source make up the data, by shares. Numbers only: rows are indices into one pool.

Policies:
- `union`: all rows, whatever the shares; with `rows`, that many at the pool's own shares.
- `cap`: the largest mix at exactly the shares without a repeat; with `rows`, that many.
- `repeat`: as the authors of the paper drew (`draw`): every side with replacement at exactly the shares, the training
  rows first, each further side from rows of which neither the row nor a text equal to it was drawn before.

Counts: a share of rows is rounded down; what rounding leaves over goes to the sources with the largest remainders.
So 67,013 rows at validation 0.2 give `repeat` 53,610 and 13,402 rows, as the paper's authors had (one row is lost,
where `union` and `cap` give it to training). Everything is repeatable from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
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
