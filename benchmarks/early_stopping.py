"""What early stopping saves: searches replayed on real learning curves, with it and without.

The curves are those of `learning_curves.py`: a surrogate of a table of real trainings. For each search seed a search of
100 trials at full fidelity says what there is to find: its best loss, give or take the deviation between seeds, is the
target. Counted are the tokens until a finished or promoted trial first has the target, of the search that stops early
and of the full one. MADS in blocks of 2, 4 and 8, TPE one at a time and in blocks of 2, each against itself at full
fidelity; TPE with Optuna's SuccessiveHalvingPruner and HyperbandPruner against TPE with the same.

Prints two JSON lines a setting. The first: medians of tokens to target, in whole trainings, and the median over seeds of
their paired ratio theirs / ours (above 1: ours is better; 0 where ours has not found it after 400 trials), with its
quartiles. The second: the share of seeds in which, after 100 trials, one is finished or promoted that is within the
deviation of the best of all had they been finished.

    python benchmarks/early_stopping.py [--quick] [--seeds 25 50] [--processes 2]
    python benchmarks/early_stopping.py --rule curve --rungs .15 .3 .5 --keep .2 --told failed   # others than the default
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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from learning_curves import TABLE, Surrogate, Table
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from replay import WHOLE, Search, Spent, pruned, replayed

from meshtune.config_spending import EarlyStoppingConfig

NAME = "early_stopping"
TRIALS, MOST = 100, 400
SEARCHES = (Search("mads", 2), Search("mads", 4), Search("mads", 8), Search("tpe", 1), Search("tpe", 2))
PRUNERS = ("SuccessiveHalving", "Hyperband")
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


def one(job: tuple[Search | str, int, int]) -> Spent:
    """One search."""
    search, seed, trials = job
    if isinstance(search, str):
        return pruned(pruner(search), _surrogates[0], seed, trials)
    return replayed(search, _surrogates[0], seed, trials)


def raced(
    pool: ProcessPoolExecutor, sides: Mapping[Search | str, Search], seeds: Sequence[int], trials: int
) -> dict[Search | str, list[dict[str, Any]]]:
    """Of each search by seed: tokens to target, those of the full one beside it, and whether it kept a leader."""
    deviation = _surrogates[0].deviation
    wholes = {full: list(pool.map(one, [(full, seed, trials) for seed in seeds])) for full in set(sides.values())}
    jobs = [(side, seed, trials) for side in sides for seed in seeds]
    found: dict[Search | str, list[dict[str, Any]]] = {side: [] for side in sides}
    for (side, seed, _), spent in zip(jobs, pool.map(one, jobs), strict=True):
        whole = wholes[sides[side]][seeds.index(seed)]
        target = whole.best + deviation
        reached, longer = spent.reached(target), trials
        while math.isinf(reached) and longer < MOST:
            longer = min(2 * longer, MOST)
            reached = pool.submit(one, (side, seed, longer)).result().reached(target)
        found[side].append(
            {
                "ours": reached / WHOLE,
                "theirs": whole.reached(target) / WHOLE,
                "kept": spent.keeps_a_leader(deviation),
                "spent": spent.tokens[-1] / WHOLE,
                "regret": spent.best - whole.best,
            }
        )
    return found


def lines(
    found: Mapping[Search | str, Sequence[Mapping[str, Any]]], how: str, pruners: Search | None
) -> Iterator[dict[str, Any]]:
    """What is printed."""
    for side, each in found.items():
        what = side if isinstance(side, str) else f"{side.sampler}, blocks of {side.block}, {how}"
        if isinstance(side, str):
            what = f"tpe with Optuna's {side}"
        yield line([x["ours"] for x in each], [x["theirs"] for x in each], f"{what} | the same, full fidelity")
        kept = statistics.mean(x["kept"] for x in each)
        yield line([kept], None, f"{what}: share of searches that finish or promote a leader")
    if pruners is not None:
        for name in PRUNERS:
            theirs = [x["ours"] for x in found[name]]
            mine = [x["ours"] for x in found[pruners]]
            yield line(mine, theirs, f"tpe, one at a time, {how} | tpe with Optuna's {name}")


def line(ours: Sequence[float], theirs: Sequence[float] | None, setting: str) -> dict[str, Any]:
    """One line; medians."""
    made: dict[str, Any] = {"name": NAME, "ours": rounded(statistics.median(ours)), "theirs": None, "ratio": None}
    made |= {"low": None, "high": None}
    if theirs is not None:
        ratios = [ratio(mine, other) for mine, other in zip(ours, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", type=Path, default=TABLE)
    for name, section in EarlyStoppingConfig.model_fields.items():
        if name != "rows":
            kind = {"rule": str, "told": str, "startup": int, "promote": int}.get(name, float)
            parser.add_argument(f"--{name}", type=kind, nargs="+" if name == "rungs" else None, default=section.default)
    arguments = parser.parse_args()
    chosen = {name: getattr(arguments, name) for name in EarlyStoppingConfig.model_fields if name != "rows"}
    config = EarlyStoppingConfig(**{**chosen, "rungs": tuple(chosen["rungs"])})
    searches = [Search("mads", 2), Search("tpe", 1)] if arguments.quick else SEARCHES
    seeds = range(2) if arguments.quick else range(*arguments.seeds)
    stopping = {Search(each.sampler, each.block, config): each for each in searches}
    alone = Search("tpe", 1)
    sides: dict[Search | str, Search] = {**stopping, **dict.fromkeys(PRUNERS, alone)}
    begin(arguments.table)
    known = _surrogates[0]
    print(
        f"{known.points} points with two seeds; each predicted without itself: mean error at the end {known.error:.3f}"
        f" over the better half, {100 * known.explained:.0f} % of the variance explained; deviation between seeds near"
        f" the best {known.deviation:.4f}, of which trials of one study have {known.own:.4f}",
        file=sys.stderr,
    )
    with ProcessPoolExecutor(arguments.processes, get_context("spawn"), begin, (arguments.table,)) as pool:
        found = raced(pool, sides, seeds, 30 if arguments.quick else TRIALS)
    how = f"rule {config.rule}"
    for each in lines(found, how, Search("tpe", 1, config)):
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
