"""The sides of the race in optimizers.py: each spends 100 evaluations on a surface with one seed's noise."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from surfaces import ALPHA, DROPOUT, FLOOR, LEARNING_RATE, NOISE, RANK_LOG2, SENSIBLE, SURFACES, UNTUNED, Surface

from meshtune.samplers.batch_gp import BatchGPSampler
from meshtune.samplers.recommend import recommend
from meshtune.samplers.seam import Sampler

BUDGETS = (20, 50, 100)
BLOCK = 8
LEAST_REGRET = 1e-4
Regrets = dict[str, list[float]]  # of the noisy best and of the recommended point, at each budget
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
        self._trials: list[optuna.trial.FrozenTrial] = []

    def __len__(self) -> int:
        return len(self._seen)

    def evaluate(self, rank_log2: float, dropout: float, alpha: float, learning_rate: float) -> float:
        """A noisy loss, or nan."""
        point = {"rank": 2**rank_log2, "alpha": alpha, "dropout": dropout, "learning_rate": learning_rate}
        loss = self._surface(point)
        noisy = float(loss + self._noise[len(self._seen)])
        params = {"rank_log2": rank_log2, "dropout": dropout, "alpha": alpha, "learning_rate": learning_rate}
        failed = math.isnan(loss)
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else noisy,
            params=params,
            distributions=SPACE,
        )
        trial.number = len(self._trials)
        self._trials.append(trial)
        self._seen.append((noisy, loss))
        return noisy

    def regrets(self) -> Regrets:
        """At each budget; that of the untuned model where every training has diverged."""
        found: Regrets = {"best": [], "recommended": []}
        for budget in BUDGETS:
            succeeded = [pair for pair in self._seen[:budget] if not math.isnan(pair[0])]
            _, loss = min(succeeded, default=(UNTUNED, UNTUNED))
            found["best"].append(max(loss - FLOOR, LEAST_REGRET))
            recommended = recommend(self._trials[:budget], SPACE)
            loss = loss if recommended is None else self._seen[recommended.number][1]
            found["recommended"].append(max(loss - FLOOR, LEAST_REGRET))
        return found


# -- sides: surface, seed, setting -> regret at each budget


def batch_gp(surface: Surface, seed: int, setting: Setting) -> Regrets:
    return by_optuna(gp(seed, setting), surface, seed, setting, enqueue=False)


def ours(surface: Surface, seed: int, setting: Setting) -> Regrets:
    return by_optuna(mads(seed, setting), surface, seed, setting, enqueue=False)


def plain(make: Callable[[int, Setting], BaseSampler], surface: Surface, seed: int, setting: Setting) -> Regrets:
    return by_optuna(make(seed, setting), surface, seed, setting, enqueue=setting.sensible)


def filled(surface: Surface, seed: int, setting: Setting, **fills: Any) -> Regrets:
    return by_optuna(mads(seed, setting, **fills), surface, seed, setting, enqueue=False)


def mads(seed: int, setting: Setting, **fills: Any) -> BaseSampler:
    from meshtune.samplers.mads import MadsSampler

    x0 = sensible() if setting.sensible else None
    return MadsSampler(search_space=SPACE, block_size=setting.block, x0=x0, seed=seed, **fills)


def gp(seed: int, setting: Setting) -> BaseSampler:
    return BatchGPSampler(SPACE, block_size=setting.block, x0=sensible() if setting.sensible else None, seed=seed)


def sensible() -> dict[str, float]:
    """The sensible start in Optuna's space."""
    start = dict(SENSIBLE)
    return {"rank_log2": int(math.log2(start.pop("rank"))), **start}


def by_optuna(sampler: BaseSampler, surface: Surface, seed: int, setting: Setting, *, enqueue: bool) -> Regrets:
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


def bare(surface: Surface, seed: int, setting: Setting) -> Regrets:
    regrets: Regrets = bare_run(surface, seed, setting, BUDGETS[-1])["regrets"]
    return regrets


def bare_run(surface: Surface, seed: int, setting: Setting, evaluations: int) -> dict[str, Any]:
    """In a program of its own: PyNomad takes over the signals of the process that it runs in."""
    what = json.dumps([surface.name, seed, setting.block, setting.sensible, evaluations])
    program = [sys.executable, __file__, what]
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

    def evaluate(asked: Any) -> list[bool] | int:
        nonlocal answered
        waits.append(time.perf_counter() - answered)
        several = hasattr(asked, "get_x")
        points = [asked.get_x(i) for i in range(asked.size())] if several else [asked]
        succeeded = []
        for point in points:
            rank, dropout, alpha, rate = (point.get_coord(i) for i in range(4))
            first = len(course) == 0
            share = min(round(dropout) * DROPOUT[2], DROPOUT[1])  # six steps of .05 are a little over .3
            loss = course.evaluate(round(rank), share, round(alpha), 10**rate)
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


SIDES: dict[str, Callable[[Surface, int, Setting], Regrets]] = {
    "batch-gp": batch_gp,
    "mads": ours,
    "mads, fill tpe": partial(filled, fill="tpe"),
    "mads, fill batch-gp": partial(filled, fill="batch-gp"),
    "mads, 4 fills batch-gp": partial(filled, fill="batch-gp", least_fills=4),
    "Optuna TPE": partial(plain, lambda seed, setting: TPESampler(seed=seed, constant_liar=setting.block > 1)),
    "Optuna GP": partial(plain, lambda seed, _: GPSampler(seed=seed)),
    "bare PyNomad": bare,
    "QMC": partial(plain, lambda seed, _: QMCSampler(scramble=True, seed=seed)),
    "random": partial(plain, lambda seed, _: RandomSampler(seed=seed)),
}


if __name__ == "__main__":
    bare_main(sys.argv[1])
