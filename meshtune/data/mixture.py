"""How many rows of each source: numbers only, no rows.

`union`: every row. `cap`: the largest exact mix of the shares without a repeat. `repeat`: drawn with replacement by the
shares, as the paper's authors did to reach 70/30 of 67,013 rows (which no mix without repeats can have).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from meshtune.errors import Fault, InputError


@dataclass(frozen=True)
class Sides:
    """Rows of each side."""

    train: int
    validation: int
    test: int


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` whole rows by shares, by the largest remainders; ties go to the earlier one."""
    exact = [total * share for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def largest_cap(available: Sequence[int], shares: Sequence[float]) -> int:
    """The most rows that an exact mix of the shares can have without a repeat."""
    total = min(math.floor(count / share + 1e-9) for count, share in zip(available, shares, strict=True))
    while any(wanted > count for wanted, count in zip(apportion(total, shares), available, strict=True)):
        total -= 1
    return total


def counts(mixture: str, available: Sequence[int], shares: Sequence[float] | None, rows: int | None) -> list[int]:
    """Rows to take from each source, all sides together.

    Args:
        mixture: union, cap or repeat. available: rows of each source. shares: None where none are given.
        rows: how many in all; None for as many as there are.

    Raises:
        InputError: the mixture cannot be had; the message says the largest that can.
    """
    everything = sum(available)
    if mixture == "union" or shares is None:
        total = everything if rows is None else min(rows, everything)
        return apportion(total, [count / everything for count in available])
    if mixture == "repeat":
        return apportion(everything if rows is None else rows, shares)
    largest = largest_cap(available, shares)
    if rows is not None and rows > largest:
        per_source = ", ".join(map(str, available))
        raise InputError(
            Fault(
                f"{rows} rows cannot be had in these shares without repeats from sources of {per_source} rows;"
                f" the largest mix has {largest}. Lower `rows`, or use `mixture: repeat`",
                key="data.rows",
            )
        )
    return apportion(largest if rows is None else rows, shares)


def sides(total: int, validation: float | None, test: float | None, *, drawn: bool) -> Sides:
    """Rows of each side out of `total`, for shares (floats below 1), numbers of rows, or None (a file of its own).

    A share is rounded down; what is left trains. Where rows are drawn with replacement (`drawn`) the training rows are
    rounded down too, as the authors did: 67,013 rows at 80/20 are 53,610 and 13,402.

    Raises InputError where a side is left without rows.
    """

    def rows_of(side: float | None) -> int:
        return side or 0 if isinstance(side, int | None) else math.floor(total * side + 1e-9)

    held = Sides(0, rows_of(validation), rows_of(test))
    train = total - held.validation - held.test
    if drawn and isinstance(validation, float):
        train = math.floor(total * (1 - validation - (test if isinstance(test, float) else held.test / total)) + 1e-6)
    if validation is not None and held.validation < 1:
        raise InputError(Fault(f"no validation rows are left of {total}: raise it or add data", key="data.validation"))
    if train < 1:
        message = f"{held.validation} validation and {held.test} test rows leave none of {total} to train on"
        raise InputError(Fault(message, key="data.validation"))
    return Sides(train, held.validation, held.test)
