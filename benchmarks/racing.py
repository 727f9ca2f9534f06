"""Racing against scoring everybody: how often both choose the same, and the share of items that a race asks for.

Candidates whose true scores are known answer the items of some benchmarks; half of the variance of an answer is the
item's difficulty, which all share. Everybody is scored on all items, and the choice by mean rank is noted; then a race
over the same answers (`meshtune.selection.racing`, as `meshtune evaluate --race` runs it) chooses. What is the same is
fixed beforehand:

- same: the race chooses a candidate that scoring everybody puts first; exact ties in mean rank share that place.
- as good: that, or one whose true scores are the same or better on every benchmark. Where true scores are tied, scoring
  everybody chooses one of equals by the luck of the items, and another of them is no worse a choice.

A candidate's items count as asked in the rounds that it was in; of the share, those of all candidates that can win.

Prints a JSON line a setting: `same` and `as_good` with their 95 % intervals (Clopper-Pearson), `items` (the mean share
that was asked), and the quartiles of that share over races. What half of the items can tell, whatever is predicted:
`half`, how often who is ahead once everybody has answered half of them is first on all; `cut`, how often the first one
is among the four that are ahead after a sixth, which of ten can be asked everything at half of the items in all.

    python benchmarks/racing.py [--races 300] [--settings NAME ..] [--paper FOLDER] [--error 0.05] [--processes 2]
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from meshtune.selection import racing
from meshtune.selection.measured import POINTS, Array
from meshtune.selection.rules import Rule, merits, winners

NAME = "racing"
SETS = {"mmlu": 14042, "bbh": 6430, "drop": 6285, "humaneval": 164}  # the paper's
TASKS = 27  # of BBH, whose score is the mean of theirs
Draw = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Setting:
    """True shares of right answers, (candidates, benchmarks), drawn for each race; items and groups by benchmark."""

    truth: Draw
    items: tuple[int, ...] = (200, 200, 200, 164)
    groups: tuple[int, ...] = (1, 1, 1, 1)


def gaps(*above: float, of: int = 10, spread: float = 0.0) -> Draw:
    """The first few are so much better than the others, everywhere; all differ by a normal `spread` as well."""

    def draw(chance: np.random.Generator) -> Array:
        skill = np.zeros((of, 4))
        skill[: len(above)] = np.array(above)[:, None]
        skill += spread * (chance.normal(size=(of, 1)) + 0.5 * chance.normal(size=(of, 4)))
        return np.clip(chance.uniform(0.25, 0.5, 4) + skill, 0.02, 0.98)

    return draw


def near_chance(chance: np.random.Generator) -> Array:
    """One benchmark tells, and three are at chance."""
    found = np.full((10, 4), 0.25)
    found[:, 0] = 0.4 + 0.04 * chance.normal(size=10)
    return found


def settings(paper: Path | None) -> dict[str, Setting]:
    """All of them by name; those of the paper's candidates where its tables are."""
    large = {"items": (2000, 2000, 2000, 164), "groups": (1, TASKS, 1, 1)}
    found = {
        "one far ahead": Setting(gaps(0.10, spread=0.01)),
        "one ahead": Setting(gaps(0.05, spread=0.01)),
        "two ahead": Setting(gaps(0.08, 0.06, spread=0.01)),
        "spread wide": Setting(gaps(spread=0.06)),
        "spread": Setting(gaps(spread=0.03)),
        "near ties": Setting(gaps(spread=0.01)),
        "all tied": Setting(gaps()),
        "two tied ahead": Setting(gaps(0.08, 0.08)),
        "one tells": Setting(near_chance),
        "five candidates, spread": Setting(gaps(of=5, spread=0.03)),
        "large sets, spread": Setting(gaps(spread=0.03), **large),
        "large sets, near ties": Setting(gaps(spread=0.01), **large),
    }
    if paper is not None:
        whole = {"items": tuple(SETS.values()), "groups": (1, TASKS, 1, 1)}
        for side in ("nomad", "tpe"):
            for most in (10, 100):
                truth = table(paper / f"table4_{side}.csv", most)
                found[f"Table 4, {side}, {len(truth)}"] = Setting(lambda _, truth=truth: truth, **whole)
                few = {"items": (500, 500, 500, 164), "groups": (1, TASKS, 1, 1)}
                found[f"Table 4, {side}, {len(truth)}, 500 items"] = Setting(lambda _, truth=truth: truth, **few)
    return found


def table(path: Path, most: int) -> Array:
    """The shares of a search's candidates up to a rank."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"].isdecimal() and int(row["rank"]) <= most]
    return np.array([[float(row[name]) / POINTS for name in SETS] for row in rows])


def fields(truth: Array, setting: Setting, chance: np.random.Generator) -> list[racing.Field]:
    """Everybody's answers, items in an order in which they may be asked."""
    found = []
    for kind, (items, groups) in enumerate(zip(setting.items, setting.groups, strict=True)):
        easy = chance.normal(size=items)
        right = stats.norm.ppf(truth[:, kind])[:, None] * 2**0.5
        answers = POINTS * (right + easy + chance.normal(size=(len(truth), items)) > 0)
        of = np.sort(np.arange(items) % groups)
        asked = racing.order(str(kind), list(map(str, of)), int(chance.integers(2**31)))
        found.append(racing.Field(str(kind), answers[:, asked], of[asked]))
    return found


def race(whole: list[racing.Field], error: float, seed: int) -> tuple[set[int], int, float]:
    """Who has the highest merit of those left, and the share of items that was asked."""
    size = len(whole[0].answers)
    steps = [racing.rounds(field.answers.shape[1], int(field.groups.max()) + 1) for field in whole]
    asked = np.zeros((size, len(whole)), int)
    active, spent, found = list(range(size)), 0.0, np.zeros(size)
    for step in range(max(map(len, steps))):
        for kind, each in enumerate(steps):
            asked[active, kind] = each[min(step, len(each) - 1)]
        found = racing.chances([_part(field, asked[:, n]) for n, field in enumerate(whole)], seed=seed + step)
        out = racing.leaving(found, active, spent, error)
        spent += sum(racing.at_most(float(found[number])) for number in out)
        active = [number for number in active if number not in out]
        if len(active) == 1:
            break
    best = max(active, key=lambda number: float(found[number]))
    total = sum(field.answers.shape[1] for field in whole) * size
    return set(active), best, float(asked.sum()) / total


def _part(field: racing.Field, asked: Array) -> racing.Field:
    hidden = np.arange(field.answers.shape[1]) >= asked[:, None]
    return racing.Field(field.name, np.where(hidden, np.nan, field.answers), field.groups, field.chance)


def one(name: str, seed: int, error: float, paper: Path | None) -> tuple[bool, bool, float, bool, bool]:
    """Whether a race chooses the same, whether as good, the share of items, and what half of them can tell."""
    setting = settings(paper)[name]
    chance = np.random.default_rng([seed, len(name)])
    truth = setting.truth(chance)
    whole = fields(truth, setting, chance)
    first = winners(_merits(whole))
    half = first[_merits(whole, 1 / 2).argmax()]
    cut = first[np.argsort(-_merits(whole, 1 / 6), kind="stable")[:4]].any()
    _, chosen, share = race(whole, error, seed)
    same = bool(first[chosen])
    as_good = any((truth[chosen] >= truth[other] - 1e-12).all() for other in np.flatnonzero(first))
    return same, same or as_good, share, bool(half), bool(cut)


def _merits(whole: list[racing.Field], share: float = 1.0) -> Array:
    """By mean rank, on the first items of each benchmark."""
    scores = []
    for field in whole:
        asked = round(share * field.answers.shape[1])
        scores.append(_score(racing.Field(field.name, field.answers[:, :asked], field.groups[:asked])))
    return merits(Rule(), np.stack(scores, axis=1), [field.name for field in whole])


def _score(field: racing.Field) -> Array:
    count = int(field.groups.max()) + 1
    return np.stack([field.answers[:, field.groups == group].mean(axis=1) for group in range(count)]).mean(axis=0)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Racing against scoring everybody.")
    parser.add_argument("--races", type=int, default=300)
    parser.add_argument("--settings", nargs="*")
    parser.add_argument("--paper", type=Path, help="the folder with table4_nomad.csv and table4_tpe.csv")
    parser.add_argument("--error", type=float, default=racing.ERROR)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    for name in given.settings or settings(given.paper):
        with ProcessPoolExecutor(given.processes) as pool:
            rows = list(pool.map(partial(one, name, error=given.error, paper=given.paper), range(given.races)))
        same, as_good, shares, half, cut = (list(part) for part in zip(*rows, strict=True))
        told = {"name": NAME, "ours": _mean(shares), "theirs": 1.0, "ratio": 1 / _mean(shares)}
        low, median, high = (float(value) for value in np.quantile(shares, [0.25, 0.5, 0.75]))
        told |= {"low": 1 / high, "high": 1 / low, "setting": name, "races": len(rows)}
        told |= {"same": _share(same), "as_good": _share(as_good), "items": _mean(shares), "median": median}
        told |= {"half": _share(half), "cut": _share(cut)}
        print(json.dumps(told), flush=True)


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def _share(told: list[bool]) -> list[float]:
    """The share with its interval."""
    found = stats.binomtest(sum(told), len(told)).proportion_ci(0.95)
    return [round(sum(told) / len(told), 4), round(float(found.low), 4), round(float(found.high), 4)]


if __name__ == "__main__":
    sys.exit(main())
