"""Training, validation and test rows of a mix. Numbers only: rows are indices, what must stay together are groups.

Guarantees: no group stands on two sides; validation and test have the mix's shares of the sources; the same generator
gives the same split. A side may come out smaller than asked for where only large groups are left, never larger. Equal
text means the whole row, prompt and response, as the model reads it, whatever the white space; the same question with
another answer is another text. Near-duplicates are not moved (`near` counts them).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from meshtune.data.mixture import Indices, allocate, part
from meshtune.errors import InputError


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
                f"{min(map(len, members)):,}). Ask for more rows, or remove repeats."
            )
        free = left
        sides.append(np.sort(np.concatenate(taken)) if taken else np.empty(0, dtype=np.int64))
    if not free:
        raise InputError("no row is left to train on: lower `data.validation` or `data.test`, or give more data")
    return np.sort(np.concatenate(free)), sides[1], sides[0]
