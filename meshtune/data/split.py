"""Which rows stand on which side. No prompt, and so no duplicate, ever stands on two.

Rows with the same prompt are one group, and a group goes to one side as a whole. Sides keep the sources' proportions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meshtune.data.mixture import Sides, apportion
from meshtune.errors import Fault, InputError

HELD_OUT = ("test", "validation")


@dataclass(frozen=True)
class Split:
    """Row numbers of each side, in training order for `train`; with repeats where rows were drawn."""

    train: list[int]
    validation: list[int]
    test: list[int]


def without_repeats(
    groups: Sequence[str], source_of: Sequence[int], wanted: Sequence[int], sides: Sides, seed: int
) -> Split:
    """Choose `wanted` rows of each source at random and split them.

    Args:
        groups: the group of each row. source_of: its source. wanted: rows to take from each source.
        sides: rows of each side in all. seed: of the choice.
    """
    generator = np.random.default_rng([seed, 1])
    chosen: list[int] = []
    for source, count in enumerate(wanted):
        rows = [row for row, of in enumerate(source_of) if of == source]
        chosen += sorted(generator.permutation(rows)[:count].tolist())
    taken: dict[str, list[int]] = {}
    remaining = _in_groups(chosen, groups, generator)
    shares = [count / sum(wanted) for count in wanted]
    for side in HELD_OUT:
        budget = apportion(getattr(sides, side), shares)
        taken[side], remaining = _take(remaining, source_of, budget)
        _require(side, len(taken[side]), getattr(sides, side))
    train = [row for rows in remaining for row in rows]
    return Split(generator.permutation(train).tolist(), sorted(taken["validation"]), sorted(taken["test"]))


def with_repeats(
    groups: Sequence[str], source_of: Sequence[int], shares: Sequence[float], sides: Sides, seed: int
) -> Split:
    """Draw rows with replacement, as the authors did: training rows first, the others from what was never drawn."""
    generator = np.random.default_rng([seed, 2])
    everything = range(len(groups))
    by_source = [[row for row in everything if source_of[row] == source] for source in range(len(shares))]
    train = _draw(by_source, apportion(sides.train, shares), generator)
    seen = {groups[row] for row in train}
    rest = _in_groups([row for row in everything if groups[row] not in seen], groups, generator)
    pools: dict[str, list[int]] = {"validation": [], "test": []}
    ratio = sides.test / (sides.test + sides.validation)
    cut = round(len(rest) * ratio)
    if sides.test:
        cut = max(cut, 1)
    pools["test"] = [row for rows in rest[:cut] for row in rows]
    pools["validation"] = [row for rows in rest[cut:] for row in rows]
    drawn = {}
    for side in HELD_OUT:
        count = getattr(sides, side)
        pool = [[row for row in pools[side] if source_of[row] == source] for source in range(len(shares))]
        if count and not all(pool):
            _require(side, 0, count)
        drawn[side] = _draw(pool, apportion(count, shares), generator) if count else []
    return Split(generator.permutation(train).tolist(), sorted(drawn["validation"]), sorted(drawn["test"]))


def _draw(by_source: Sequence[Sequence[int]], counts: Sequence[int], generator: np.random.Generator) -> list[int]:
    return [
        int(row)
        for rows, count in zip(by_source, counts, strict=True)
        for row in (generator.choice(np.asarray(rows), size=count) if count else ())
    ]


def _in_groups(rows: Sequence[int], groups: Sequence[str], generator: np.random.Generator) -> list[list[int]]:
    members: Mapping[str, list[int]] = defaultdict(list)
    for row in rows:
        members[groups[row]].append(row)
    ordered = list(members.values())
    return [ordered[index] for index in generator.permutation(len(ordered))]


def _take(remaining: list[list[int]], source_of: Sequence[int], budget: list[int]) -> tuple[list[int], list[list[int]]]:
    """Whole groups into a side, as long as they fit into their sources' budget."""
    taken: list[int] = []
    left: list[list[int]] = []
    for rows in remaining:
        need = [sum(source_of[row] == source for row in rows) for source in range(len(budget))]
        if any(budget) and all(n <= b for n, b in zip(need, budget, strict=True)):
            budget = [b - n for n, b in zip(need, budget, strict=True)]
            taken += rows
        else:
            left.append(rows)
    return taken, left


def _require(side: str, have: int, want: int) -> None:
    if have < want:
        raise InputError(
            Fault(
                f"only {have} of {want} rows can be put there without a prompt standing on two sides (many rows share"
                " their prompt): ask for fewer, or add data",
                key=f"data.{side}",
            )
        )
