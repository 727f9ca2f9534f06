"""How sure a rule must be before it stops a trial: tokens saved and loss, over a grid of bars, beside other tools.

Searches replayed as in `freeze_thaw.py`, batch-gp and TPE: the rule `curve`, which stops a trial whose chance to be
the best is under 2, 5, 10 or 20 % (`confidence`), with a tenth that always goes on (`keep: .1`), without freezing and
with it, where the same bar decides what may thaw, and with its usual numbers (`as it is`); the rule `model`, which
freezes and thaws by the model of points and curves; `default` with half and a quarter that go on; that model with the
same four bars, where it gives places and new points too (`model`); and TPE with Optuna's SuccessiveHalving and
Hyperband. All beside batch-gp's full search, and TPE's own beside TPE's.

Prints a JSON line for each table, size of blocks and setting: whole trainings of both (ratio: the median of theirs /
ours by seed, with quartiles), the share `saved` and the `cost` in deviations between seeds with standard errors, over
seeds; tokens to the full search's best plus a deviation (median), how many missed it, and what one needs that knows.

    python benchmarks/stopping_bars.py [--tables NAME.jsonl ..] [--seeds 0 12] [--blocks 1 8] [--only REGEX]
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from freeze_thaw import Curves, knowing, searched, surrogate_of, thawed
from learning_curves import TABLE
from replay import WHOLE, Search, Spent, replayed

from meshtune.config.budget import EarlyStoppingConfig

NAME = "stopping_bars"
BARS = (0.02, 0.05, 0.1, 0.2)
FULL = ("full, batch-gp", "full, tpe")


def sides(surrogate: Curves, block: int, trials: int) -> dict[str, Any]:
    """What is replayed, by name; each takes a seed."""

    def stopped(sampler: Any, rule: Any, bar: float, keep: float, freeze: bool) -> Any:
        rungs = surrogate.fractions[:-1]
        config = EarlyStoppingConfig(rule=rule, rungs=rungs, confidence=1 - bar, keep=keep, freeze=freeze)
        return lambda seed: replayed(Search(sampler, block, config), surrogate, seed, trials)

    def model(bar: float) -> Any:
        return lambda seed: thawed(surrogate, block, seed, trials, 0.0, bar)

    found: dict[str, Any] = {}
    for sampler in ("batch-gp", "tpe"):
        found[f"full, {sampler}"] = partial(_full, sampler, surrogate, block, trials)
        for freeze in (False, True):
            also = ", freeze" if freeze else ""
            for bar in BARS:
                found[f"curve {bar:g}, {sampler}{also}"] = stopped(sampler, "curve", bar, 0.1, freeze)
            for keep in (0.5, 0.25):
                found[f"default, keep {keep:g}, {sampler}{also}"] = stopped(sampler, "default", 0.1, keep, freeze)
        found[f"curve as it is, {sampler}"] = stopped(sampler, "curve", 0.1, 0.5, False)
        found[f"rule model, {sampler}"] = stopped(sampler, "model", 0.02, 0.5, True)
    found |= {f"model {bar:g}": model(bar) for bar in BARS}
    for pruner in ("SuccessiveHalving", "Hyperband"):
        found[f"tpe with Optuna's {pruner}"] = partial(_pruned, pruner, surrogate, block, trials)
    return found


def _full(sampler: Any, surrogate: Curves, block: int, trials: int, seed: int) -> Spent:
    return replayed(Search(sampler, block), surrogate, seed, trials)


def _pruned(pruner: str, surrogate: Curves, block: int, trials: int, seed: int) -> Spent:
    return searched(pruner, surrogate, block, seed, trials, 0.0)


def lines(surrogate: Curves, found: Mapping[str, Sequence[Spent]], where: str) -> Iterator[dict[str, Any]]:
    """A line for each setting, beside batch-gp's full search; `own_cost`: beside the same sampler's."""
    whole = found[FULL[0]]
    for name, spent in found.items():
        ratios = [full.total / each.total for full, each in zip(whole, spent, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0], 0, ratios[0])
        made: dict[str, Any] = {"name": NAME, "ours": round(statistics.median(x.total for x in spent) / WHOLE, 2)}
        made |= {"theirs": round(statistics.median(x.total for x in whole) / WHOLE, 2)}
        made |= {"ratio": round(statistics.median(ratios), 2), "low": round(low, 2), "high": round(high, 2)}
        made |= _mean("saved", [1 - each.total / full.total for full, each in zip(whole, spent, strict=True)])
        for word, others in (("cost", whole), ("own_cost", found[FULL["tpe" in name]])):
            made |= _mean(word, [(x.best - o.best) / surrogate.deviation for x, o in zip(spent, others, strict=True)])
        targets = [each.best + surrogate.deviation for each in whole]
        reached = [each.reached(target) / WHOLE for each, target in zip(spent, targets, strict=True)]
        theirs = [each.reached(target) / WHOLE for each, target in zip(whole, targets, strict=True)]
        middle = statistics.median(reached)
        made |= {"to_target": round(middle, 1) if math.isfinite(middle) else None}
        made |= {"missed": sum(map(math.isinf, reached)), "full_to_target": round(statistics.median(theirs), 1)}
        made |= {
            "knowing": round(statistics.median(knowing(surrogate, theirs)), 1),
            "thaws": statistics.mean(x.thaws for x in spent),
        }
        yield made | {"setting": f"{name} | {FULL[0]}: {where}, {len(spent)} seeds"}


def _mean(word: str, values: Sequence[float]) -> dict[str, Any]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {word: round(statistics.mean(values), 2), f"{word}_error": None if error is None else round(error, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", default=[TABLE])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 12), metavar=("FIRST", "END"))
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--only", default="", help="settings whose name this is found in; the full searches always run")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    for path in arguments.tables:
        surrogate = surrogate_of(path, None)
        for block in arguments.blocks:
            chosen = sides(surrogate, block, arguments.trials)
            chosen = {name: run for name, run in chosen.items() if name in FULL or re.search(arguments.only, name)}
            found = {name: [run(seed) for seed in range(*arguments.seeds)] for name, run in chosen.items()}
            for each in lines(surrogate, found, f"{path.stem}, blocks of {block}, {arguments.trials} trials"):
                print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
