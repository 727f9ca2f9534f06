"""Two objectives: MADS (DMulti-MADS) beside Optuna's TPE, NSGA-II and random points, by the hypervolume found.

Each side asks for 100 points of a problem, one at a time or in blocks of 8, from the same sensible start point or from
none (MADS then begins in the middle of the space); noise is drawn alike for every side at the same evaluation of the
same seed. After 20, 50 and 100 trials the Pareto set of the noisy values is taken, as a user of the study would. Its
*hypervolume* is that of the points' noise-free values, sizes and times as logarithms, up to the worst that counts; the
*gap* is the share of the true Pareto set's hypervolume that it lacks (at least .001). A point that only noise put in
the set adds no more than it is worth.

- `product, size` and so on: a made-up LoRA surface (problems.py), and the adapter's size, which is proportional to the
  rank and has no noise. `measured, size`: the surface of this project's own trainings.
- `product, ridge`: losses on two kinds of data that want another rank, scale and dropout; both have noise.
- `nmt, time`: the real table of translation models, 1 - BLEU / 100 and the seconds that translating takes; six
  variables, no noise, 44 of 648 trainings fail. Left out where the table is not there (see problems.py).

`tpe` is what `sampler: tpe` is in study.yaml: it does not look at what the open block proposes, as Optuna's does here
(`constant_liar`). NSGA-II has a population of 16: with Optuna's default of 50 half of the trials would be random. MADS
gets the start as x0, the others as an enqueued trial. A block of MADS is what NOMAD proposes, often fewer than 8: it
has as many trials.

    python benchmarks/multi_objective.py [--results FILE] [--seeds 20] [--first-seed 0] [--block 1|8] [--start yes|no]
        [--problems "product, size" ..] [--ours mads] [--sides "Optuna TPE" ..]

One JSON line a setting, other side and budget: geometric means of the gaps, their ratio theirs / ours (above 1: ours is
better) and its 95 % interval by Student's t over the problems' mean log ratios: what holds on another problem of this
kind, not on another seed of these. The same as a Markdown table goes to standard error. With `--results` runs are kept
as they end, sides in turn, and a race that was cut short goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import optimizer_tables
import optuna
from optimizer_sides import BLOCK, BUDGETS, Setting, close
from optuna._hypervolume import compute_hypervolume
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from problems import NMT, TABLES, Params, Problem, problem, there
from scipy.stats import qmc

from meshtune.config.sections import SamplerConfig
from meshtune.samplers.build import build
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import Sampler
from meshtune.samplers.mads.sampler import MadsSampler

LEAST = 1e-3
PARAMETERS = 300_000  # of the adapter for each rank: about that of 135M
Pair = tuple[float, float]


@dataclass(frozen=True)
class Two:
    """Two functions of the same point to minimise.

    Attributes:
        first: the problem whose space, start and noise this has. values: of both without noise; nan: the training
            fails. worst: what no longer counts. noise: the second one's. log: whether that counts by its logarithm.
    """

    name: str
    first: str
    values: Callable[[Params], Pair]
    worst: Pair
    noise: Callable[[Params], float] = lambda _: 0.0
    log: bool = True

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """As they count, from 0 (worst) down; (points, 2)."""
        found = np.array(values, float).reshape(-1, 2)
        worst = np.array(self.worst)
        if self.log:
            found[:, 1], worst[1] = np.log2(found[:, 1]), math.log2(worst[1])
        return found - worst

    def hypervolume(self, values: np.ndarray) -> float:
        """Of all that is better than the worst."""
        at = self.scaled(values)
        return float(compute_hypervolume(at[(at < 0).all(axis=1)], np.zeros(2)))


def with_size(name: str) -> Two:
    made = problem(name)

    def values(params: Params) -> Pair:
        rank = params["rank"] if "rank" in params else 2 ** params["rank_log2"]
        return made.loss(params), PARAMETERS * float(rank)

    return Two(f"{name}, size", name, values, (made.worst, PARAMETERS * 1024.0))


def two_losses() -> Two:
    one, other = problem("product"), problem("ridge")

    def values(params: Params) -> Pair:
        return one.loss(params), other.loss(params)

    return Two("product, ridge", "product", values, (one.worst, other.worst), other.noise, log=False)


def nmt_time() -> Two:
    made = problem("nmt")
    lines = [(TABLES / f"nmt_so-en.{kind}").read_text(encoding="utf-8").splitlines() for kind in ("hyps", "evals")]
    seconds = {tuple(map(float, a.split())): float(b.split()[1]) for a, b in zip(*lines, strict=True)}
    rates = sorted({cell[-1] for cell in seconds})

    def values(params: Params) -> Pair:
        bpe, layers, embedding, feed_forward, heads, rate = (params[name] for name in NMT)
        cell = (1000.0 * 2**bpe, 2.0**layers, 2.0**embedding, 2.0**feed_forward, 2.0**heads, rates[rate])
        return made.loss(params), seconds.get(cell, math.nan)

    return Two("nmt, time", "nmt", values, (1.0, max(seconds.values()) * 1.01))


SIZED = ("product", "curved", "cliff", "corner", "seven", "measured")
PROBLEMS: dict[str, Callable[[], Two]] = {
    **{f"{name}, size": partial(with_size, name) for name in SIZED},
    "product, ridge": two_losses,
    "nmt, time": nmt_time,
}


@cache
def two(name: str) -> Two:
    """By its name; made once."""
    return PROBLEMS[name]()


@cache
def whole(name: str) -> float:
    """The hypervolume of the true Pareto set: of 8,192 Sobol points and ten rounds about the best ones so far."""
    made = two(name)
    encoding, rng = Encoding(problem(made.first).space), np.random.default_rng(0)
    shares = qmc.Sobol(len(encoding.lower), rng=0).random(2**13)
    values = np.empty((0, 2))
    for width in (0.1, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005):
        new = shares[len(values) :]
        found = [made.values(encoding.decode(encoding.at(row))) for row in new.tolist()]
        values = np.concatenate([values, np.array(found)])
        on = pareto(values)
        shares, values = shares[on], values[on]
        about = shares.repeat(max(1, 1500 // len(shares)), axis=0)
        moved = np.where(rng.random(about.shape) < 0.5, rng.normal(0, width, about.shape), 0)
        shares = np.concatenate([shares, np.clip(about + moved, 0, 1)])
    return made.hypervolume(values)


def pareto(values: np.ndarray) -> list[int]:
    """Numbers of the rows that no other one betters; of equal rows the first."""
    order = np.lexsort((values[:, 1], values[:, 0]))
    found: list[int] = []
    least = math.inf
    for row in order:
        if values[row, 1] < least:  # nan is not
            found.append(int(row))
            least = values[row, 1]
    return found


# -- a run


def mads(base: Problem, seed: int, setting: Setting) -> BaseSampler:
    x0 = base.start if setting.sensible else None
    return MadsSampler(search_space=base.space, x0=x0, block_size=setting.block, seed=seed)


SIDES: dict[str, Callable[[Problem, int, Setting], BaseSampler]] = {
    "mads": mads,
    "Optuna TPE": lambda _, seed, setting: TPESampler(seed=seed, constant_liar=setting.block > 1),
    "tpe": lambda base, seed, setting: build(
        SamplerConfig(name="tpe"), base.space, x0=None, block_size=setting.block, seed=seed
    ),
    "Optuna GP": lambda _, seed, __: GPSampler(seed=seed),
    "Optuna NSGA-II": lambda _, seed, __: NSGAIISampler(population_size=16, seed=seed),
    "random": lambda _, seed, __: RandomSampler(seed=seed),
}


def run(side: str, name: str, seed: int, setting: Setting) -> list[list[Pair]]:
    """At each budget the noise-free values of the noisy Pareto set."""
    made = two(name)
    base, block = problem(made.first), setting.block
    sampler = SIDES[side](base, seed, setting)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    if setting.sensible and side != "mads":
        study.enqueue_trial(base.start)
    noise = np.random.default_rng([seed, list(PROBLEMS).index(name)]).normal(size=(BUDGETS[-1], 2))
    true: list[Pair] = []
    noisy: list[Pair] = []
    while len(true) < BUDGETS[-1]:
        most = sampler.available(study) if isinstance(sampler, Sampler) else block
        for trial in [study.ask(base.space) for _ in range(min(most, block, BUDGETS[-1] - len(true)))]:
            values = made.values(trial.params)
            if math.isnan(sum(values)):
                noisy.append((math.nan, math.nan))
                study.tell(trial, state=TrialState.FAIL)
            else:
                by = noise[len(true)] * (base.noise(trial.params), made.noise(trial.params))
                noisy.append((values[0] + float(by[0]), values[1] + float(by[1])))
                study.tell(trial, noisy[-1])
            true.append(values)
    close(sampler)
    return [[true[row] for row in pareto(np.array(noisy[:budget]))] for budget in BUDGETS]


class Results:
    """Pareto sets of finished runs, in a file where one is given."""

    def __init__(self, file: Path | None):
        self._file, self._known = file, dict[str, list[list[Pair]]]()
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                key, found = json.loads(line)
                self._known[json.dumps(key)] = found

    def log_gaps(self, side: str, name: str, seed: int, setting: Setting) -> list[float]:
        """Of one run at each budget; it is made if it is not known."""
        key = json.dumps([side, name, seed, setting.block, setting.sensible])
        if key not in self._known:
            self._known[key] = run(side, name, seed, setting)
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([json.loads(key), self._known[key]]) + "\n")
        best = whole(name)
        made = two(name)
        return [math.log(max(1 - made.hypervolume(np.array(at)) / best, LEAST)) for at in self._known[key]]


def lines(logs: Mapping[str, np.ndarray], ours: str, title: str) -> Iterator[dict[str, object]]:
    """One for each other side and budget."""
    for side in logs:
        for column, budget in enumerate(BUDGETS) if side != ours else ():
            mine, other = logs[ours][..., column], logs[side][..., column]
            mean, low, high = optimizer_tables.over_problems(other - mine)
            yield {
                "name": "multi_objective",
                "ours": round(math.exp(mine.mean()), 4),
                "theirs": round(math.exp(other.mean()), 4),
                "ratio": round(mean, 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "won": int((mine < other).sum()),
                "lost": int((mine > other).sum()),
                "setting": f"gap to the whole hypervolume after {budget}, {ours} against {side}, {title}, "
                f"{mine.shape[1]} problems x {mine.shape[0]}",
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", choices=SIDES, default="mads")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=["Optuna TPE", "Optuna NSGA-II", "random"], help="beside ours"
    )
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--block", type=int, help="only with so many at once (default: both 1 and 8)")
    parser.add_argument("--start", choices=("yes", "no"), help="only with a sensible start, or only with none")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="only these")
    parser.add_argument("--results", type=Path, help="keep runs here (JSON lines)")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    names = [name for name in arguments.problems if there(name.split(",")[0])]
    if len(names) < len(arguments.problems):
        print("the real table is not here (MESHTUNE_TABLES): left out", file=sys.stderr)
    results, sides = Results(arguments.results), list(dict.fromkeys([arguments.ours, *arguments.sides]))
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    blocks = (1, BLOCK) if arguments.block is None else (arguments.block,)
    starts = (True, False) if arguments.start is None else (arguments.start == "yes",)
    settings = [Setting(block, start) for start, block in product(starts, blocks)]
    runs = {
        (seed, setting, name, side): results.log_gaps(side, name, seed, setting)
        for seed, setting, name, side in product(seeds, settings, names, sides)
    }
    tables = {}
    for setting in settings:
        logs = {
            side: np.array([[runs[seed, setting, name, side] for name in names] for seed in seeds]) for side in sides
        }
        tables[str(setting)] = logs
        for line in lines(logs, arguments.ours, str(setting)):
            print(json.dumps(line), flush=True)
    print(*optimizer_tables.overall(tables, arguments.ours, BUDGETS), sep="\n", file=sys.stderr)
    for side in sides[1:]:
        print("", *optimizer_tables.by_problem(tables, arguments.ours, side, names), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
