"""How often `meshtune select` is wrong where the truth is known: `kept` at the margin, and the intervals of gains.

Pairs: one candidate and one reference on so many items. It is worse by what is said, on other items of the kind; how
often is it `kept` all the same (at most 5 % are allowed where it is 1 point worse or more), and how often does the 95 %
interval of its gain hold the true one (at least 95 %)?

- `no mends, 1 point`, `no mends, 3 points`: it breaks so many of the right answers and mends none.
- `5 % mended, 1 point`, `20 % mended, 1 point`: it mends so many and breaks one point more.
- `equal`: it mends 5 % and breaks as many. `kept` is then right: how often it can be shown.

Several: four candidates as good as the reference, 15 % each way, on 40 to 200 items of 27 tasks or of one: the interval
of the chosen one's gain, and how often the choice is called beyond noise. Seeds: four candidates trained with three
seeds that move all of them alike by 3 points, on 2,000 items: the interval over a reference that was not trained.

    python benchmarks/selection_coverage.py [--runs 1000] [--draws 400]

One JSON line each: `ours` the share in per cent, `theirs` what is allowed or asked, `low` and `high` the 95 % interval
of the share (Clopper and Pearson). A Markdown table of the pairs goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import numpy as np
from scipy import stats

from meshtune.selection.comparisons import GuardVerdict
from meshtune.selection.decide import CandidateInfo, Decision, Settings, decide
from meshtune.selection.measured import POINTS, Array, Measured, of_answers
from meshtune.selection.resampling import with_trainings

ITEMS = (24, 60, 100, 200, 240, 300, 400, 1000)
PAIRS = {  # shares that are mended and broken
    "no mends, 1 point": (0.0, 0.01),
    "no mends, 3 points": (0.0, 0.03),
    "5 % mended, 1 point": (0.05, 0.06),
    "20 % mended, 1 point": (0.20, 0.21),
    "equal": (0.05, 0.05),
}


def measured(answers: dict[str, Array], tasks: int = 1) -> Measured:
    """From right and wrong by candidate, items dealt to tasks in turn."""
    told = {name: {str(n): float(one) for n, one in enumerate(each)} for name, each in answers.items()}
    groups = {item: str(int(item) % tasks) for item in next(iter(told.values()))}
    return Measured(tuple(told), (of_answers("x", "X", told, groups=groups),))


def inside(decision: Decision, true: float) -> bool:
    return all(one.low <= true <= one.high for one in decision.gains)


def pair(mended: float, broken: float, items: int, seed: int, draws: int) -> tuple[bool, bool]:
    """Whether it is kept, and whether the interval holds the gain."""
    place = np.random.default_rng(seed).random(items)
    made = measured({"a": (place >= broken) & (place < 0.5 + mended), "base": place < 0.5})
    decision = decide(
        made, {"a": CandidateInfo(1), "base": CandidateInfo()}, Settings(draws=draws, seed=seed), references=["base"]
    )
    return decision.candidates[0].verdict is GuardVerdict.KEPT, inside(decision, POINTS * (mended - broken))


def several(items: int, tasks: int, seed: int, draws: int) -> tuple[bool, bool]:
    """Whether the interval holds the gain, which is 0, and whether the choice is called beyond noise."""
    chance = np.random.default_rng(seed)
    names = [*"abcd", "base"]
    easy = chance.random(items) < 0.5
    answers = {name: easy ^ (chance.random(items) < 0.15) for name in names}
    facts = {name: CandidateInfo(n + 1) for n, name in enumerate("abcd")} | {"base": CandidateInfo()}
    decision = decide(measured(answers, tasks), facts, Settings(draws=draws, seed=seed), references=["base"])
    return inside(decision, 0.0), decision.beyond_noise


def seeds(seed: int, draws: int, items: int = 2000, trainings: int = 3) -> bool:
    """Whether the interval of the gain, 0 over all seeds, holds it where these move all candidates by 3 points."""
    chance = np.random.default_rng(seed)
    right = 0.5 + 0.03 * chance.normal(size=(1, trainings, 1))
    cube = POINTS * (chance.random((4, trainings, items)) < right)
    answers = {name: cube[n, 0] / POINTS for n, name in enumerate("abcd")} | {"base": chance.random(items) < 0.5}
    made, effects = with_trainings(measured(answers), {name: {"x": cube[n]} for n, name in enumerate("abcd")}, [])
    facts = {name: CandidateInfo(n + 1) for n, name in enumerate("abcd")} | {"base": CandidateInfo()}
    settings = Settings(draws=draws, seed=seed)
    return inside(decide(made, facts, settings, references=["base"], seeds=effects), 0.0)


def line(found: list[bool], asked: float | None, what: str) -> dict[str, object]:
    share = stats.binomtest(sum(found), len(found))
    low, high = share.proportion_ci()
    return {
        "name": "selection_coverage",
        "ours": round(100 * share.statistic, 1),
        "theirs": asked,
        "ratio": None,
        "low": round(100 * low, 1),
        "high": round(100 * high, 1),
        "setting": f"{what}, {len(found)} runs",
    }


def lines(runs: int, draws: int) -> Iterator[dict[str, object]]:
    for kind, (mended, broken) in PAIRS.items():
        for items in ITEMS:
            each = [pair(mended, broken, items, seed, draws) for seed in range(runs)]
            allowed = None if kind == "equal" else 5.0
            yield line([kept for kept, _ in each], allowed, f"kept, {kind}, {items} items")
            yield line([held for _, held in each], 95.0, f"interval holds the gain, {kind}, {items} items")
    for items, tasks in ((40, 27), (60, 27), (100, 27), (200, 27), (40, 1), (200, 1)):
        each = [several(items, tasks, seed, draws) for seed in range(runs)]
        what = f"four candidates, {items} items of {tasks} tasks"
        yield line([held for held, _ in each], 95.0, f"interval holds the gain, {what}")
        yield line([beyond for _, beyond in each], 5.0, f"beyond noise, {what}")
    found = [seeds(seed, draws) for seed in range(runs)]
    yield line(found, 95.0, "interval holds the gain, three seeds that move all candidates by 3 points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    arguments = parser.parse_args()
    shares = {}
    for each in lines(arguments.runs, arguments.draws):
        print(json.dumps(each), flush=True)
        shares[str(each["setting"]).rsplit(", ", 1)[0]] = each["ours"]
    print(f"| kept / interval holds the gain, % | {' | '.join(map(str, ITEMS))} |", file=sys.stderr)
    print(f"|---|{'---|' * len(ITEMS)}", file=sys.stderr)
    for kind in PAIRS:
        cells = [
            f"{shares[f'kept, {kind}, {items} items']} / {shares[f'interval holds the gain, {kind}, {items} items']}"
            for items in ITEMS
        ]
        print(f"| {kind} | {' | '.join(cells)} |", file=sys.stderr)


if __name__ == "__main__":
    main()
