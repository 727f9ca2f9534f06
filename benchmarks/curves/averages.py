"""How well the loss of a running average tells the loss after cooling, beside the loss of the weights as they are.

Read from the long tables of `make.py`, for each task and for all together (each task's losses from their own mean).
Two things are told: the loss after a cooling that branches off at the rung, and the loss at the training's end. For
each: the rank correlation over points (Spearman), and the deviation of what is left when the told loss is taken from
the one to be told, but for a constant. Points are drawn anew for the intervals (bootstrap, 95 %).

Trainings that diverged, or end above the untuned model's loss by more than a tenth, are left out (`--all` keeps them):
of such a one nobody wants to know how bad it is, and a single one would be the whole correlation.

    python benchmarks/curves/averages.py [--tables benchmarks/curves] [--all]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Array = npt.NDArray[np.float64]
DRAWS = 500


@dataclass(frozen=True)
class Sample:
    """What was seen at one rung of a task: by point the loss of the weights, of an average, and the one to be told."""

    task: str
    point: Array
    raw: Array
    average: Array
    told: Array


def lines(table: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head of a table, and its trainings with `wsd`."""
    head, *rest = map(json.loads, table.read_text(encoding="utf-8").splitlines())
    return head, [line for line in rest if line["schedule"] == "wsd" and line["ending"] == "complete"]


def sensible(line: dict[str, Any], trainings: list[dict[str, Any]]) -> bool:
    """Whether it ends where it is worth telling; the first loss at the least rate is nearly the untuned one."""
    gentle = min(trainings, key=lambda other: float(other["hyperparameters"]["learning_rate"]))
    return bool(line["losses"][-1] <= 1.1 * gentle["losses"][0])


def cooled(table: Path, at: int, spread: int, every: bool) -> Sample | None:
    """At one of the shares where coolings branch off."""
    head, found = lines(table)
    kept = [line for line in found if line["cooled"] and (every or sensible(line, found))]
    branches = [(line["point"], line["cooled"][at], line) for line in kept if line["cooled"][at]["loss"] is not None]
    if not branches:
        return None
    raw = [line["losses"][head["shares"].index(head["cool_at"][at])] for _, _, line in branches]
    average = [branch["averages"][str(spread)] for _, branch, _ in branches]
    told = [branch["loss"] for _, branch, _ in branches]
    return _sample(head, [point for point, _, _ in branches], raw, average, told)


def final(table: Path, share: float, every: bool) -> Sample | None:
    """At one of the shares of the plateau, for the loss at the end; the first seed."""
    head, found = lines(table)
    place = head["shares"].index(share)
    kept = [line for line in found if line["seed"] == 0 and (every or sensible(line, found))]
    if not kept:
        return None
    columns = [[line[name][place] for line in kept] for name in ("losses", "averaged")]
    return _sample(head, [line["point"] for line in kept], *columns, [line["losses"][-1] for line in kept])


def _sample(head: dict[str, Any], points: list[int], *columns: list[float]) -> Sample:
    raw, average, told = (np.array(column, dtype=float) for column in columns)
    return Sample(head["task"], np.array(points, dtype=float), raw, average, told)


def residual(samples: list[Sample], name: str) -> float:
    """The deviation of what is left, each sample from its own mean."""
    parts = [sample.told - getattr(sample, name) for sample in samples]
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    free = sum(len(part) - 1 for part in parts)
    return float(np.sqrt(squares / free)) if free > 0 else np.nan


def correlation(samples: list[Sample], name: str) -> float:
    """The mean over the samples, weighted by their points."""
    found = []
    for sample in samples:
        ranks = [rankdata(values) for values in (getattr(sample, name), sample.told)]
        if len(sample.told) > 2 and all(rank.std() > 0 for rank in ranks):
            found.append((np.corrcoef(*ranks)[0, 1], len(sample.told)))
    return float(np.average([v for v, _ in found], weights=[n for _, n in found])) if found else np.nan


def gain(samples: list[Sample]) -> float:
    """How many times the average leaves less than the weights."""
    ours = residual(samples, "average")
    return residual(samples, "raw") / ours if ours else np.nan


def interval(samples: list[Sample], of: Callable[[list[Sample]], float]) -> tuple[float, float]:
    """95 %, over points, which are drawn together for all rungs of a task."""
    random, drawn = np.random.default_rng(0), []
    tasks = {sample.task: sorted({*sample.point}) for sample in samples}
    for _ in range(DRAWS):
        chosen = {task: random.choice(points, len(points)) for task, points in tasks.items()}
        value = of([_drawn(sample, chosen[sample.task]) for sample in samples])
        drawn += [value] if np.isfinite(value) else []
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (np.nan, np.nan)
    return float(low), float(high)


def _drawn(sample: Sample, points: Array) -> Sample:
    places = [int(place) for point in points for place in np.flatnonzero(sample.point == point)]
    return Sample(sample.task, *(getattr(sample, name)[places] for name in ("point", "raw", "average", "told")))


def report(title: str, samples: list[Sample]) -> None:
    """A line for people and a line of JSON."""
    samples = [sample for sample in samples if len(sample.told) > 1]
    if not samples:
        return
    count = len({(sample.task, point) for sample in samples for point in sample.point})
    ours, theirs = (residual(samples, name) for name in ("average", "raw"))
    low, high = interval(samples, gain)
    ranks = [correlation(samples, name) for name in ("average", "raw")]
    more = interval(samples, lambda drawn: correlation(drawn, "average") - correlation(drawn, "raw"))
    setting = f"{title}; {count} points; rank correlation {ranks[0]:.3f} against {ranks[1]:.3f}"
    setting += f", difference {more[0]:+.3f} to {more[1]:+.3f}"
    values = {"name": "residual deviation of the average's loss against the weights'", "ours": ours, "theirs": theirs}
    values |= {"ratio": gain(samples), "low": low, "high": high}
    told = {key: x if isinstance(x, str) else round(x, 4) if np.isfinite(x) else None for key, x in values.items()}
    print(json.dumps({**told, "setting": setting}))


def samples(tables: list[Path], every: bool) -> Iterator[tuple[str, list[Sample]]]:
    """Everything that is reported."""
    head, _ = lines(tables[0])
    for spread in head["spreads"]:
        for tables_ in ([table] for table in tables) if spread == head["spread"] else ():
            found = [cooled(tables_[0], at, spread, every) for at in range(len(head["cool_at"]))]
            yield f"cooled, {tables_[0].stem}, spread {spread}", [x for x in found if x is not None]
        found = [cooled(table, at, spread, every) for table in tables for at in range(len(head["cool_at"]))]
        yield f"cooled, all tasks, spread {spread}", [x for x in found if x is not None]
    plateau = [share for share in head["shares"] if 0.04 < share <= head["decay_from"]]
    for share in plateau:
        ends = [final(table, share, every) for table in tables]
        yield f"end, all tasks, at {share:g} of the steps", [x for x in ends if x is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent)
    parser.add_argument("--all", action="store_true", help="keep trainings that end above the untuned model's loss")
    arguments = parser.parse_args()
    tables = [table for table in sorted(arguments.tables.glob("*-252.jsonl")) if len(table.read_text().split("\n")) > 2]
    if not tables:
        raise SystemExit(f"{arguments.tables} has no tables: run make.py first")
    for title, found in samples(tables, arguments.all):
        report(title, found)


if __name__ == "__main__":
    main()
