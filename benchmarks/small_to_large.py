"""Should the rates of a smaller model's study be moved for a larger one?

On pairs of models in the table that ships, `priors/runs.jsonl`: the smaller one's best rate at its largest rank, as it
is, and moved by the model behind `meshtune advise`, without the two in it (the scales of its parts were fitted to all).
The excess is how far the loss of the larger model lies above the best of its grid, interpolated at its largest rank, in
% of the loss; beside it is the constant, 3e-4.

Kinds of pairs: sizes (the same data and steps, another hidden size of the same family; then of one generation, and of
strangers: two families, or two generations of one) and lengths (the embedded model on the same kind of data with more
steps). Prints them, and JSON lines.

    python benchmarks/small_to_large.py
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace

from advice import Grid, ratio

from meshtune.plan.warm_start import rate_shift
from meshtune.priors import runs
from meshtune.priors.advice import ALPHA, RATE, shipped
from meshtune.priors.runs import Task


def pairs(tasks: list[Task]) -> Iterator[tuple[str, Task, Task]]:
    """The kind, the smaller and the larger one."""
    for small in tasks:
        for large in tasks:
            one, other = small.facts, large.facts
            if not all(any(run.alpha == ALPHA for run in t.runs) for t in (small, large)):
                continue
            if small.data == large.data and one.steps == other.steps and one.hidden_size < other.hidden_size:
                if one.root == other.root:
                    yield "sizes", small, large
                yield f"sizes, {'one generation' if one.family == other.family else 'strangers'}", small, large
            if one.root == other.root and one.hidden_size == other.hidden_size and one.steps < other.steps:
                yield "lengths", small, large


def best_rate(grid: Grid) -> float:
    return min((excess, place[0]) for place, excess in grid.excess.items() if place[1] == grid.rank)[1]


def main() -> None:
    """Measure all pairs."""
    tasks = runs.read(runs.SHIPPED)
    found = dict[str, list[tuple[float, float, float, float]]]()
    for kind, small, large in pairs(tasks):
        left = [task not in (small, large) for task in tasks]
        known = replace(shipped(), known=tuple(itertools.compress(shipped().known, left)))
        rate, to = best_rate(Grid.of(small)), Grid.of(large)
        shift = rate_shift(small.facts, large.facts, known)
        excess = tuple(100 * to.between(each) for each in (rate, rate * 10**shift, RATE))
        found.setdefault(kind, []).append((shift, *excess))  # type: ignore[arg-type]
    for kind, each in found.items():
        shifts, as_is, moved, constant = zip(*each, strict=True)
        columns = {"as it is": as_is, "moved": moved, "constant": constant}
        shown = "; ".join(f"{name} {statistics.fmean(v):.3f}, worst {max(v):.2f}" for name, v in columns.items())
        print(
            f"{kind}, {len(each)} pairs, moved by {min(shifts):+.2f} to {max(shifts):+.2f} decades: {shown} (% excess)"
        )
        for name in ("as it is", "constant"):
            value, low, high = ratio([x / 100 for x in columns[name]], [x / 100 for x in moved])
            line = {
                "name": f"moved over {name}",
                "ours": statistics.fmean(moved),
                "theirs": statistics.fmean(columns[name]),
            }
            print(
                json.dumps({**line, "ratio": value, "low": low, "high": high, "setting": f"{kind}, {len(each)} pairs"})
            )


if __name__ == "__main__":
    main()
