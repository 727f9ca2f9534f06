"""What early stopping saves: searches replayed on real learning curves, with it and without.

The curves are those of `learning_curves.py`: a surrogate of a table of real trainings. For each search seed a search of
100 trials at full fidelity says what there is to find: its best loss, give or take one deviation between seeds, is the
target. Counted are the tokens until a finished or promoted trial first has the target, of the search that stops early
and of the full one. The deviation is that of one training between seeds; or, a target that is harder to reach, what of
it is not common to all trials of a study, which share a seed. batch-gp one at a time and in blocks of 4 and 8, MADS in
blocks of 2, 4 and 8, TPE one at a time and in blocks of 2, each against itself at full fidelity; and TPE with Optuna's
SuccessiveHalvingPruner and HyperbandPruner.

Prints JSON lines, a deviation and a setting each: medians of tokens to target, in whole trainings, and the median
over seeds of their paired ratio theirs / ours (above 1: ours is better; 0 where ours has not found it by 400 trials),
with its quartiles. Beside each the same for a search that knows more than it can: the full one, had all its trials but
the baseline and the one that has the target ended at the first rung. And the share of seeds in which, after 100 trials,
one is finished or promoted that is within the deviation of the best of all, had they been finished. And of each search
the tokens for an equal number of trials, promotions included, with the share of tokens that is `saved` and what it
costs in loss: by how much the best one is higher than the full search's, mean over seeds and its standard error.

    python benchmarks/early_stopping.py [--quick] [--seeds 25 50] [--searches mads-2 tpe-1] [--processes 2]
    python benchmarks/early_stopping.py --rule curve --rungs .15 .3 --keep .2 --value failed   # others than the default
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from learning_curves import TABLE, Surrogate, Table
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from replay import WHOLE, Search, Spent, pruned, replayed

from meshtune.config.budget import EarlyStoppingConfig

NAME = "early_stopping"
TRIALS, MOST = 100, 400
SEARCHES = {
    "batch-gp-1": Search("batch-gp", 1),
    "batch-gp-4": Search("batch-gp", 4),
    "batch-gp-8": Search("batch-gp", 8),
    "mads-2": Search("mads", 2),
    "mads-4": Search("mads", 4),
    "mads-8": Search("mads", 8),
    "tpe-1": Search("tpe", 1),
    "tpe-2": Search("tpe", 2),
}
ALONE = SEARCHES["tpe-1"]  # what Optuna's pruners are held against
PRUNERS = ("SuccessiveHalving", "Hyperband")
Side = Search | str  # a search by meshtune, or one of `PRUNERS`
_surrogates: list[Surrogate] = []  # of this process


def pruner(name: str) -> BasePruner:
    """Optuna's, over the rungs that there are."""
    if name == "SuccessiveHalving":
        return SuccessiveHalvingPruner(min_resource=10, reduction_factor=3)
    return HyperbandPruner(min_resource=10, max_resource=100, reduction_factor=3)


def begin(table: Path) -> None:
    """In each process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    _surrogates[:] = [Surrogate(Table.read(table))]


def one(job: tuple[Side, int, int]) -> Spent:
    """One search."""
    search, seed, trials = job
    if isinstance(search, str):
        return pruned(pruner(search), _surrogates[0], seed, trials)
    return replayed(search, _surrogates[0], seed, trials)


@dataclass(frozen=True)
class Equal:
    """Of an equal number of trials: tokens of both in whole trainings, and by how much the best loss is higher."""

    ours: float
    theirs: float
    cost: float

    @classmethod
    def of(cls, spent: Spent, whole: Spent) -> Equal:
        """One search and its full one."""
        return cls(spent.total / WHOLE, whole.total / WHOLE, spent.best - whole.best)


@dataclass(frozen=True)
class Compared:
    """One search of one seed: tokens to target, beside those of the full one and of the one that knows; whether it kept
    a leader."""

    ours: float
    theirs: float
    knowing: float
    kept: bool
    equal: Equal


def raced(
    pool: ProcessPoolExecutor,
    sides: Mapping[Side, Search],
    seeds: Sequence[int],
    trials: int,
    most: int,
    within: Sequence[float],
) -> dict[Side, list[list[Compared]]]:
    """Of each search, against its full one, by seed and deviation."""
    wholes = {full: list(pool.map(one, [(full, seed, trials) for seed in seeds])) for full in set(sides.values())}
    jobs = [(side, seed, trials) for side in sides for seed in seeds]
    found: dict[Side, list[list[Compared]]] = {side: [] for side in sides}
    for (side, seed, _), spent in zip(jobs, pool.map(one, jobs), strict=True):
        whole, longer, so_far = wholes[sides[side]][seeds.index(seed)], spent, trials
        while math.isinf(longer.reached(whole.best + min(within))) and so_far < most:
            so_far = min(2 * so_far, most)
            longer = pool.submit(one, (side, seed, so_far)).result()
        found[side].append([compared(spent, longer, whole, deviation) for deviation in within])
    return found


def compared(spent: Spent, longer: Spent, whole: Spent, deviation: float) -> Compared:
    target = whole.best + deviation
    theirs = whole.reached(target) / WHOLE
    first = _surrogates[0].tokens[0]
    knowing = 1.0 if theirs == 1 else 2 + first * (theirs - 2)
    ours = min(spent.reached(target), longer.reached(target)) / WHOLE
    return Compared(ours, theirs, knowing, spent.keeps_a_leader(deviation), Equal.of(spent, whole))


def lines(
    found: Mapping[Side, Sequence[Sequence[Compared]]], how: str, within: Mapping[str, float], alone: Search
) -> Iterator[dict[str, Any]]:
    """What is printed; `alone` is what Optuna's pruners are held against."""
    for place, name in enumerate(within):
        by_side = {side: [each[place] for each in seeds] for side, seeds in found.items()}
        for side, each in by_side.items():
            what = (
                f"tpe with Optuna's {side}"
                if isinstance(side, str)
                else f"{side.sampler}, blocks of {side.block}, {how}"
            )
            theirs = [x.theirs for x in each]
            yield line([x.ours for x in each], theirs, f"to within {name}: {what} | full fidelity")
            if isinstance(side, Search):
                full = f"{side.sampler}, blocks of {side.block}, if it knew | full fidelity"
                yield line([x.knowing for x in each], theirs, f"to within {name}: {full}")
            kept = statistics.mean(x.kept for x in each)
            yield line([kept], None, f"share of searches that finish or promote one within {name}: {what}")
            if place == 0:
                yield saved([x.equal for x in each], f"an equal number of trials: {what} | full fidelity")
        for pruner_name in PRUNERS if alone in by_side else ():
            mine, others = ([x.ours for x in by_side[side]] for side in (alone, pruner_name))
            yield line(mine, others, f"to within {name}: tpe, blocks of 1, {how} | tpe with Optuna's {pruner_name}")


def saved(each: Sequence[Equal], setting: str) -> dict[str, Any]:
    """Share of tokens saved for an equal number of trials, with what it cost in loss."""
    costs = [x.cost for x in each]
    made = line([x.ours for x in each], [x.theirs for x in each], setting)
    made["saved"] = round(1 - sum(x.ours for x in each) / sum(x.theirs for x in each), 3)
    made["cost"] = round(statistics.mean(costs), 4)
    made["cost_error"] = round(statistics.stdev(costs) / math.sqrt(len(costs)), 4) if len(costs) > 1 else None
    return made


def line(ours: Sequence[float], theirs: Sequence[float] | None, setting: str) -> dict[str, Any]:
    """One line; medians."""
    made: dict[str, Any] = {"name": NAME, "ours": rounded(statistics.median(ours)), "theirs": None, "ratio": None}
    made |= {"low": None, "high": None}
    if theirs is not None:
        ratios = [ratio(mine, other) for mine, other in zip(ours, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 3 else (min(ratios), 0, max(ratios))
        made |= {"theirs": rounded(statistics.median(theirs)), "ratio": rounded(statistics.median(ratios))}
        made |= {"low": rounded(low), "high": rounded(high)}
    return made | {"setting": setting}


def ratio(ours: float, theirs: float) -> float:
    """Theirs / ours; 0 where ours was not found, also where neither was: nothing is claimed there."""
    return 0.0 if math.isinf(ours) else min(theirs / ours, MOST)


def rounded(value: float) -> float | None:
    return None if math.isinf(value) else round(value, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, 30 trials, MADS in blocks of 2 and TPE")
    parser.add_argument("--seeds", type=int, nargs=2, default=(25, 50), metavar=("FIRST", "END"))
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", type=Path, default=TABLE)
    for name, section in EarlyStoppingConfig.model_fields.items():
        if name == "freeze":
            parser.add_argument("--freeze", action="store_true")
        elif name != "rows":
            kind = {"rule": str, "value": str, "startup": int, "promote": int}.get(name, float)
            parser.add_argument(f"--{name}", type=kind, nargs="+" if name == "rungs" else None, default=section.default)
    arguments = parser.parse_args()
    chosen = {name: getattr(arguments, name) for name in EarlyStoppingConfig.model_fields if name != "rows"}
    config = EarlyStoppingConfig(**{**chosen, "rungs": tuple(chosen["rungs"])})
    searches = [SEARCHES[name] for name in (("mads-2", "tpe-1") if arguments.quick else arguments.searches)]
    seeds = range(2) if arguments.quick else range(*arguments.seeds)
    sides: dict[Side, Search] = {Search(each.sampler, each.block, config): each for each in searches}
    if ALONE in searches:
        sides |= dict.fromkeys(PRUNERS, ALONE)
    begin(arguments.table)
    known = _surrogates[0]
    print(
        f"{known.points} points with two seeds; each predicted without itself: mean error at the end {known.error:.3f}"
        f" over the better half, {100 * known.explained:.0f} % of the variance explained; deviation between seeds near"
        f" the best {known.deviation:.4f}, of which trials of one study have {known.own:.4f}",
        file=sys.stderr,
    )
    within = {"the deviation between seeds": known.deviation, "a trial's own deviation": known.own}
    with ProcessPoolExecutor(arguments.processes, get_context("spawn"), begin, (arguments.table,)) as pool:
        trials, most = (30, 30) if arguments.quick else (TRIALS, MOST)
        found = raced(pool, sides, seeds, trials, most, list(within.values()))
    for each in lines(found, f"rule {config.rule}", within, Search("tpe", 1, config)):
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
