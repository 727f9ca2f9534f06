"""What is known beforehand, in the search: does it help where it is right, and what does it cost where it is wrong?

Sides ask for points of the LoRA problems of benchmarks/problems.py, all from the common start (rank 16, alpha 32, rate
2e-4), with noise drawn alike: `none`, as ever; `known`, with what `meshtune advise` knows of a model of 4,096 hidden
units and 780 steps of 128 rows (the problems are no such models: how far off it is, is theirs to say); `above` and
`below`, the same moved by two decades of the rate, portfolio and mean alike. `nmt` has no learning rate x alpha, so
nothing is known of it and all sides are one.

Prints a JSON line for each side, sampler and number of trials: geometric means of the noise-free regret of the best
noisy point, the ratio none / side (above 1: knowing helps) with its 95 % interval by problem (Student's t over the
problems' mean log ratios), and how many pairs were won and lost. `after two more blocks` holds a side after two more
blocks against `none` without them: at 1 or above what is wrong has cost two blocks at most.

    python benchmarks/prior.py [--samplers batch-gp mads] [--seeds 5] [--block 8] [--problems ..] [--points 7]
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import optimizer_tables
import optuna
from optimizer_sides import Course, ask_and_tell, close
from problems import INDEX, SCHEDULES, problem
from surfaces import ALPHA, DROPOUT, LEARNING_RATE, RANK_LOG2

from meshtune.config import presets
from meshtune.priors.advice import advice, expected, shipped
from meshtune.priors.effects import CENTRE
from meshtune.priors.known import Known
from meshtune.samplers.gp.sampler import BatchGPSampler
from meshtune.samplers.mads.sampler import MadsSampler
from meshtune.space.space import Space, choice, integer, power_of_two, real

SIDES = {"none": None, "known": 0.0, "above": 2.0, "below": -2.0}  # decades that what is known is moved by
TRIALS = (4, 8, 12, 20)
SEVEN = (real("warmup", 0, 0.2), real("weight_decay", 1e-4, 0.3, log=True), choice("schedule", [*SCHEDULES]))
FURTHER = {"seven": SEVEN}
LORA = (
    power_of_two("rank", *(2**end for end in RANK_LOG2)),
    real("dropout", *DROPOUT[:2]),
    integer("alpha", *ALPHA, log=True),
    real("learning_rate", *LEARNING_RATE, log=True),
)


def known(name: str, moved: float, points: int) -> Known:
    """Of a problem; `moved`: decades."""
    space = presets.recommended() if name == "measured" else Space((*LORA, *FURTHER.get(name, ())))
    table = shipped()
    found, predicted = advice(table, CENTRE), expected(table, CENTRE)
    peak, steep, right, tilt, gain = predicted.means
    portfolio = [
        {**point, "learning_rate": point["learning_rate"] * 10**moved} for point in (found.start, *found.portfolio)
    ]
    moves = replace(predicted, means=(peak + moved, steep, right, tilt, gain))
    made = Known.of(space, moves, portfolio, space.decode(problem(name).start))
    assert made is not None
    return replace(made, points=made.points[:points])


def course(sampler: str, side: str, name: str, seed: int, block: int, points: int) -> list[float]:
    """The regret after each trial."""
    each, moved = problem(name), SIDES[side]
    make = {"batch-gp": BatchGPSampler, "mads": MadsSampler}[sampler]
    knows = None if moved is None else known(name, moved, points)
    made = make(search_space=each.space, x0=each.start, block_size=block, seed=seed, known=knows)
    study, done = optuna.create_study(sampler=made), Course(each, seed)
    most = TRIALS[-1] + 2 * block
    while len(done) < most:
        ask_and_tell(study, done, min(made.available(study), most - len(done)))
    close(made)
    return done.regrets()["course"]


def lines(logs: dict[str, np.ndarray], setting: str, block: int) -> list[dict[str, object]]:
    """`logs`: by side (seeds, problems, trials)."""
    found = []
    for side in list(logs)[1:]:
        for after, more in [(after, 0) for after in TRIALS] + [(TRIALS[-1], 2 * block)]:
            mine, theirs = logs[side][..., after + more - 1], logs["none"][..., after - 1]
            ratio, low, high = optimizer_tables.over_problems(theirs - mine)
            what = f"{side} against none after {after} trials" + (", after two more blocks" if more else "")
            found.append(
                {
                    "name": "prior",
                    "ours": round(math.exp(mine.mean()), 5),
                    "theirs": round(math.exp(theirs.mean()), 5),
                    "ratio": round(ratio, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "won": int((mine < theirs).sum()),
                    "lost": int((mine > theirs).sum()),
                    "setting": f"regret of {what}, {setting}",
                }
            )
    return found


def race(sampler: str, names: Sequence[str], seeds: range, block: int, points: int, sides: Sequence[str]) -> None:
    logs: dict[str, list[list[list[float]]]] = {side: [] for side in sides}
    for seed in seeds:
        rows: dict[str, list[list[float]]] = {side: [] for side in sides}
        for name in names:
            for side in sides:
                rows[side].append(course(sampler, side, name, seed, block, points))
        for side in sides:
            logs[side].append(rows[side])
    at_once = "one at a time" if block == 1 else f"blocks of {block}"
    setting = f"{sampler}, {at_once}, {points} points, {len(names)} problems x {len(seeds)}, common start"
    for line in lines({side: np.log(of) for side, of in logs.items()}, setting, block):
        print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [name for name in INDEX if name != "nmt"]
    parser.add_argument("--samplers", nargs="+", choices=("batch-gp", "mads"), default=["batch-gp", "mads"])
    parser.add_argument("--problems", nargs="+", choices=everything, default=everything)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--points", type=int, default=3, help="of the portfolio, after the start")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for sampler in given.samplers:
        race(sampler, given.problems, seeds, given.block, given.points, given.sides)


if __name__ == "__main__":
    main()
