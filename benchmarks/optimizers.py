"""MadsSampler against Optuna's TPE, bare PyNomad and random search, on synthetic LoRA surfaces with a known minimum.

A study asks for 100 points of a surface (benchmarks/surfaces.py) whose evaluations carry noise (standard deviation
0.005, the same for every side at the same evaluation of the same seed). After 20, 50 and 100 evaluations the point with
the best noisy value is taken; its *regret* is its noise-free loss above the minimum (at least 1e-4: a fiftieth of the
noise). Prints one JSON line a setting: geometric means of both regrets over surfaces and seeds, their paired ratio
theirs / ours (above 1: ours is better), and its 95 % interval by the bootstrap.

- Spaces are what a user of Optuna writes: log2 of the rank (integer), dropout with a step, alpha an integer and the
  learning rate a real, both in log. Bare PyNomad gets the paper's: codes for rank and dropout, alpha an integer,
  log10 of the learning rate.
- One at a time; and in blocks of 8: eight trials are asked for, then told. Optuna's TPE has `constant_liar` there; bare
  PyNomad `MEGA_SEARCH_POLL` and `BB_MAX_BLOCK_SIZE 8`, and its shorter blocks cost it no waiting.
- With no start: bare PyNomad, which needs one, gets a random point (of the same space, seeded). With a sensible start
  (rank 16, alpha 32, dropout 0, learning rate 2e-4): MadsSampler and PyNomad as x0, the others as an enqueued trial.
- A diverged training is a failed trial for Optuna and a failed evaluation for PyNomad; a failed *first* point is told
  to PyNomad as 1e20, since it would end there.

Last come times at 300 recorded trials: milliseconds a proposal, and seconds that a fresh sampler needs to replay them.

    python benchmarks/optimizers.py [--quick] [--seeds 20] [--first-seed 0] [--block 1|8] [--no-times]

`--quick`: three surfaces and 20 seeds; otherwise five surfaces and 50 seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from surfaces import ALPHA, DROPOUT, FLOOR, LEARNING_RATE, NOISE, QUICK, RANK_LOG2, SENSIBLE, SURFACES, UNTUNED, Surface

from meshtune.samplers.seam import Sampler

BUDGETS = (20, 50, 100)
BLOCK = 8
LEAST_REGRET = 1e-4
RECORDED, TIMED, REPEATS = 300, 20, 5  # of the times
SPACE: dict[str, BaseDistribution] = {
    "rank_log2": IntDistribution(*RANK_LOG2),
    "dropout": FloatDistribution(DROPOUT[0], DROPOUT[1], step=DROPOUT[2]),
    "alpha": IntDistribution(*ALPHA, log=True),
    "learning_rate": FloatDistribution(*LEARNING_RATE, log=True),
}


@dataclass(frozen=True)
class Setting:
    """One race: evaluations asked for together, and whether all sides get the sensible start."""

    block: int
    sensible: bool

    def __str__(self) -> str:
        start = "sensible start" if self.sensible else "no start"
        return f"{'one at a time' if self.block == 1 else f'blocks of {self.block}'}, {start}"


class Course:
    """One surface with one seed's noise: evaluates, and knows the regret after any number of evaluations."""

    def __init__(self, surface: Surface, seed: int):
        self._surface = surface
        self._noise = np.random.default_rng([seed, SURFACES.index(surface)]).normal(0.0, NOISE, 2000)
        self._seen: list[tuple[float, float]] = []  # noisy and noise-free loss

    def __len__(self) -> int:
        return len(self._seen)

    def evaluate(self, rank_log2: float, dropout: float, alpha: float, learning_rate: float) -> float:
        """A noisy loss, or nan."""
        point = {"rank": 2**rank_log2, "alpha": alpha, "dropout": dropout, "learning_rate": learning_rate}
        loss = self._surface(point)
        self._seen.append((loss + self._noise[len(self._seen)], loss))
        return self._seen[-1][0]

    def regrets(self) -> list[float]:
        """At each budget; that of the untuned model where every training has diverged."""
        regrets = []
        for budget in BUDGETS:
            succeeded = [pair for pair in self._seen[:budget] if not math.isnan(pair[0])]
            _, loss = min(succeeded, default=(UNTUNED, UNTUNED))
            regrets.append(max(loss - FLOOR, LEAST_REGRET))
        return regrets


# -- sides: surface, seed, setting -> regret at each budget


def ours(surface: Surface, seed: int, setting: Setting) -> list[float]:
    return by_optuna(mads(seed, setting), surface, seed, setting, enqueue=False)


def tpe(surface: Surface, seed: int, setting: Setting) -> list[float]:
    sampler = TPESampler(seed=seed, constant_liar=setting.block > 1)
    return by_optuna(sampler, surface, seed, setting, enqueue=setting.sensible)


def random(surface: Surface, seed: int, setting: Setting) -> list[float]:
    return by_optuna(RandomSampler(seed=seed), surface, seed, setting, enqueue=setting.sensible)


def mads(seed: int, setting: Setting) -> BaseSampler:
    from meshtune.samplers.mads import MadsSampler

    return MadsSampler(
        search_space=SPACE, block_size=setting.block, x0=sensible() if setting.sensible else None, seed=seed
    )


def sensible() -> dict[str, float]:
    """The sensible start in Optuna's space."""
    start = dict(SENSIBLE)
    return {"rank_log2": int(math.log2(start.pop("rank"))), **start}


def by_optuna(sampler: BaseSampler, surface: Surface, seed: int, setting: Setting, *, enqueue: bool) -> list[float]:
    study = optuna.create_study(sampler=sampler)
    if enqueue:
        study.enqueue_trial(sensible())
    course = Course(surface, seed)
    while len(course) < BUDGETS[-1]:
        # As meshtune's loop does: no more than NOMAD proposes, though plain Optuna would be given fills beyond that.
        most = sampler.available(study) if isinstance(sampler, Sampler) else setting.block
        ask_and_tell(study, course, min(most, setting.block, BUDGETS[-1] - len(course)))
    close(sampler)
    return course.regrets()


def ask_and_tell(study: optuna.Study, course: Course, count: int) -> None:
    for trial in [study.ask(SPACE) for _ in range(count)]:
        loss = course.evaluate(**trial.params)
        if math.isnan(loss):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, loss)


def close(sampler: BaseSampler) -> None:
    if hasattr(sampler, "close"):
        sampler.close()


def bare(surface: Surface, seed: int, setting: Setting) -> list[float]:
    regrets: list[float] = bare_run(surface, seed, setting, BUDGETS[-1])["regrets"]
    return regrets


def bare_run(surface: Surface, seed: int, setting: Setting, evaluations: int) -> dict[str, list[float]]:
    """In a program of its own: PyNomad takes over the signals of the process that it runs in."""
    what = json.dumps([surface.name, seed, setting.block, setting.sensible, evaluations])
    program = [sys.executable, __file__, "--bare", what]
    said = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def bare_main(what: str) -> None:
    """The program: prints the regrets, and the seconds between an answer and the next block."""
    import PyNomad

    name, seed, block_size, with_start, evaluations = json.loads(what)
    course = Course(next(surface for surface in SURFACES if surface.name == name), seed)
    start = SENSIBLE if with_start else drawn(seed)
    x0 = [math.log2(start["rank"]), round(start["dropout"] / DROPOUT[2]), start["alpha"]]
    x0.append(math.log10(start["learning_rate"]))
    steps = round(DROPOUT[1] / DROPOUT[2])
    lower = [RANK_LOG2[0], 0, ALPHA[0], math.log10(LEARNING_RATE[0])]
    upper = [RANK_LOG2[1], steps, ALPHA[1], math.log10(LEARNING_RATE[1])]
    waits: list[float] = []
    answered = time.perf_counter()

    def evaluate(asked: object) -> list[bool] | int:
        nonlocal answered
        waits.append(time.perf_counter() - answered)
        several = hasattr(asked, "get_x")
        points = [asked.get_x(i) for i in range(asked.size())] if several else [asked]  # type: ignore[attr-defined]
        succeeded = []
        for point in points:
            rank, dropout, alpha, rate = (point.get_coord(i) for i in range(4))
            first = len(course) == 0
            loss = course.evaluate(round(rank), round(dropout) * DROPOUT[2], round(alpha), 10**rate)
            succeeded.append(first or not math.isnan(loss))
            if succeeded[-1]:
                point.setBBO(("1e20" if math.isnan(loss) else f"{loss:.17g}").encode())
        answered = time.perf_counter()
        return succeeded if several else int(succeeded[0])

    parameters = [
        "DIMENSION 4",
        "BB_INPUT_TYPE ( I I I R )",
        "BB_OUTPUT_TYPE OBJ",
        f"MAX_BB_EVAL {evaluations}",
        f"SEED {seed}",
        "DISPLAY_DEGREE 0",
    ]
    if block_size > 1:
        parameters += [f"BB_MAX_BLOCK_SIZE {block_size}", "MEGA_SEARCH_POLL yes"]
    PyNomad.optimize(evaluate, x0, lower, upper, parameters)
    print("\n" + json.dumps({"regrets": course.regrets(), "waits": waits}), flush=True)


def drawn(seed: int) -> dict[str, float]:
    """A random start, alpha and the learning rate in log."""
    rng = np.random.default_rng([seed, 1])
    return {
        "rank": 2 ** int(rng.integers(RANK_LOG2[0], RANK_LOG2[1] + 1)),
        "dropout": DROPOUT[2] * int(rng.integers(0, round(DROPOUT[1] / DROPOUT[2]) + 1)),
        "alpha": round(2 ** rng.uniform(*np.log2(ALPHA))),
        "learning_rate": 10 ** rng.uniform(*np.log10(LEARNING_RATE)),
    }


# -- the races and the times


def race(setting: Setting, surfaces: Sequence[Surface], seeds: Sequence[int]) -> Iterator[dict[str, object]]:
    """One line for each other side and budget. Sides run seed by seed, one after another."""
    sides: dict[str, Callable[[Surface, int, Setting], list[float]]] = {
        "ours": ours,
        "Optuna TPE": tpe,
        "bare PyNomad": bare,
        "random": random,
    }
    regrets: dict[str, list[list[float]]] = {name: [] for name in sides}
    for seed in seeds:
        for surface in surfaces:
            for name, side in sides.items():
                regrets[name].append(side(surface, seed, setting))
    logs = {name: np.log(values) for name, values in regrets.items()}
    for name in list(sides)[1:]:
        for column, budget in enumerate(BUDGETS):
            mine, other = logs["ours"][:, column], logs[name][:, column]
            low, high = bootstrap(other - mine)
            yield {
                "name": "optimizers",
                "ours": round(math.exp(mine.mean()), 5),
                "theirs": round(math.exp(other.mean()), 5),
                "ratio": round(math.exp((other - mine).mean()), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "setting": f"regret after {budget} against {name}, {setting}, {len(surfaces)} surfaces x {len(seeds)}",
            }


def bootstrap(log_ratios: np.ndarray) -> tuple[float, float]:
    """95 % interval of the geometric mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(log_ratios, (4000, len(log_ratios))).mean(axis=1)
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    return float(low), float(high)


def times(setting: Setting) -> Iterator[dict[str, object]]:
    """Milliseconds a proposal after 300 trials, beside bare PyNomad; seconds of a replay."""
    mine: list[float] = []
    other: list[float] = []
    replays: list[float] = []
    surface = SURFACES[0]
    for seed in range(REPEATS):
        sampler = mads(seed, setting)
        study, course = optuna.create_study(sampler=sampler), Course(surface, seed)
        while len(course) < RECORDED:
            ask_and_tell(study, course, setting.block)
        recorded, begun = len(course), time.perf_counter()
        while len(course) < recorded + TIMED:
            ask_and_tell(study, course, setting.block)
        mine.append((time.perf_counter() - begun) / (len(course) - recorded))
        close(sampler)
        study.sampler = mads(seed, setting)
        begun = time.perf_counter()
        study.ask(SPACE)
        replays.append(time.perf_counter() - begun)
        close(study.sampler)
        waits = bare_run(surface, seed, setting, RECORDED + TIMED)["waits"]
        blocks = round(TIMED * len(waits) / (RECORDED + TIMED))
        other.append(sum(waits[-blocks:]) / TIMED)
    ratios = [theirs / our for our, theirs in zip(mine, other, strict=True)]
    yield {
        "name": "optimizers",
        "ours": round(1e3 * statistics.median(mine), 2),
        "theirs": round(1e3 * statistics.median(other), 2),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "setting": f"milliseconds a proposal at {RECORDED} trials against bare PyNomad, {setting}",
    }
    yield {
        "name": "optimizers",
        "ours": round(statistics.median(replays), 3),
        "theirs": None,
        "ratio": None,
        "low": round(min(replays), 3),
        "high": round(max(replays), 3),
        "setting": f"seconds to replay {RECORDED} trials (low and high of these), {setting}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three surfaces and 20 seeds")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--block", type=int, choices=(1, BLOCK), help="only one at a time, or only in blocks")
    parser.add_argument("--no-times", action="store_true", help="races only")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare is not None:
        bare_main(arguments.bare)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    surfaces = QUICK if arguments.quick else SURFACES
    count = arguments.seeds or (20 if arguments.quick else 50)
    seeds = range(arguments.first_seed, arguments.first_seed + count)
    blocks = (1, BLOCK) if arguments.block is None else (arguments.block,)
    for with_start in (False, True):
        for block in blocks:
            for line in race(Setting(block, with_start), surfaces, seeds):
                print(json.dumps(line), flush=True)
    if not arguments.no_times:
        for block in blocks:
            for line in times(Setting(block, False)):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
