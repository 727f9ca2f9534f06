"""The sides of the race in optimizers.py: each spends 100 evaluations on a problem with one seed's noise."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import TrialState
from problems import INDEX, Params, Problem, problem

from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.sampler import BatchGPSampler
from meshtune.samplers.interface import Sampler
from meshtune.samplers.recommend import recommend

BUDGETS = (20, 50, 100)
BLOCK = 8
Regrets = dict[str, list[float]]  # of the noisy best and of the recommended point at each budget; `course`: see there
NEEDS = {  # beside what meshtune needs
    "Optuna CMA-ES": "cmaes",
    "Optuna GP": "torch",
    "NNI TPE": "nni",
    "BoTorch qLogNEI": "botorch",
    "HEBO": "hebo",
    "bare PyNomad": "PyNomad",
}


@dataclass(frozen=True)
class Setting:
    """One race: evaluations asked for together, and whether all sides get the sensible start."""

    block: int
    sensible: bool

    def __str__(self) -> str:
        start = "sensible start" if self.sensible else "no start (ours: the middle)"
        return f"{'one at a time' if self.block == 1 else f'blocks of {self.block}'}, {start}"


class Course:
    """One problem with one seed's noise: evaluates, and knows the regret after any number of evaluations."""

    def __init__(self, problem: Problem, seed: int):
        self.problem = problem
        self._noise = np.random.default_rng([seed, INDEX[problem.name]]).normal(0.0, 1.0, 2000)
        self._seen: list[tuple[float, float]] = []  # noisy and noise-free loss
        self._trials: list[optuna.trial.FrozenTrial] = []

    def __len__(self) -> int:
        return len(self._seen)

    def evaluate(self, params: Params) -> float:
        """A noisy loss, or nan."""
        loss = self.problem.loss(params)
        failed = math.isnan(loss)
        noisy = math.nan if failed else float(loss + self.problem.noise(params) * self._noise[len(self._seen)])
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else noisy,
            params=dict(params),
            distributions=self.problem.space,
        )
        trial.number = len(self._trials)
        self._trials.append(trial)
        self._seen.append((noisy, loss))
        return noisy

    def regrets(self) -> Regrets:
        """At each budget; `course`: of the noisy best after each evaluation.

        Where every training has failed it is that of the problem's `worst`, such as the untuned model.
        """
        best, course = (math.inf, self.problem.worst), []
        for pair in self._seen[: BUDGETS[-1]]:
            best = best if math.isnan(pair[0]) else min(best, pair)
            course.append(self._regret(best[1]))
        found: Regrets = {"best": [], "recommended": [], "course": [round(regret, 6) for regret in course]}
        for budget in BUDGETS:
            found["best"].append(course[min(budget, len(course)) - 1])
            chosen = recommend(
                self._trials[:budget], self.problem.space, direction=optuna.study.StudyDirection.MINIMIZE
            )
            found["recommended"].append(
                found["best"][-1] if chosen is None else self._regret(self._seen[chosen.number][1])
            )
        return found

    def _regret(self, loss: float) -> float:
        return max(loss - self.problem.floor, self.problem.least)


# -- sides: problem, seed, setting -> regret at each budget

Make = Callable[[Problem, int, Setting], BaseSampler]


def started(make: Make, problem: Problem, seed: int, setting: Setting) -> Regrets:
    """A sampler of ours, which is given the start point itself."""
    return by_optuna(make(problem, seed, setting), problem, seed, setting, enqueue=False)


def plain(make: Make, problem: Problem, seed: int, setting: Setting) -> Regrets:
    """A sampler of Optuna's, for which the start point is enqueued."""
    return by_optuna(make(problem, seed, setting), problem, seed, setting, enqueue=setting.sensible)


def mads(problem: Problem, seed: int, setting: Setting) -> BaseSampler:
    from meshtune.samplers.mads.sampler import MadsSampler

    x0 = problem.start if setting.sensible else None
    return MadsSampler(search_space=problem.space, block_size=setting.block, x0=x0, seed=seed)


def gp(problem: Problem, seed: int, setting: Setting) -> BaseSampler:
    x0 = problem.start if setting.sensible else None
    return BatchGPSampler(problem.space, block_size=setting.block, x0=x0, seed=seed)


def gp_known(problem: Problem, seed: int, setting: Setting) -> BaseSampler:
    """With what `meshtune advise` knows, as `baseline: advised` has it, but from the start that all sides have."""
    from prior import known

    x0 = problem.start if setting.sensible else None
    knows = None if problem.name == "nmt" else known(problem.name, 0.0, 3)  # which has no learning rate x alpha
    return BatchGPSampler(problem.space, block_size=setting.block, x0=x0, seed=seed, known=knows)


def gp_drawn(problem: Problem, seed: int, setting: Setting) -> BaseSampler:
    """Without a start it begins at a random point, not at the middle of the space, where some optima lie."""
    x0 = problem.start if setting.sensible else drawn(problem, seed)
    return BatchGPSampler(problem.space, block_size=setting.block, x0=x0, seed=seed)


def nni(problem: Problem, seed: int, setting: Setting) -> BaseSampler:
    from meshtune.samplers.nni.sampler import NniTPESampler

    return NniTPESampler(problem.space, block_size=setting.block, seed=seed)


def grid(problem: Problem, seed: int, _: Setting) -> BaseSampler:
    """At least 100 points, in the middles of equal parts of each variable; the last variables are cut finest."""
    encoding = Encoding(problem.space)
    names, counts, turn = list(encoding.space), dict.fromkeys(encoding.space, 1), 0
    sizes = {name: Encoding({name: of}).size for name, of in encoding.space.items()}
    while math.prod(counts.values()) < BUDGETS[-1]:
        name = names[-1 - turn % len(names)]
        counts[name] = min(counts[name] + 1, int(min(sizes[name], BUDGETS[-1])))
        turn += 1
    values: dict[str, list[Any]] = {}
    for name, count in counts.items():
        one = Encoding({name: encoding.space[name]})
        values[name] = [one.decode(one.at([(i + 0.5) / count]))[name] for i in range(count)]
    return GridSampler(values, seed=seed)


def by_optuna(sampler: BaseSampler, problem: Problem, seed: int, setting: Setting, *, enqueue: bool) -> Regrets:
    study = optuna.create_study(sampler=sampler)
    if enqueue:
        study.enqueue_trial(problem.start)
    course = Course(problem, seed)
    while len(course) < BUDGETS[-1]:
        # As meshtune's loop does: no more than NOMAD proposes, though plain Optuna would be given fills beyond that.
        most = sampler.available(study) if isinstance(sampler, Sampler) else setting.block
        ask_and_tell(study, course, min(most, setting.block, BUDGETS[-1] - len(course)))
    close(sampler)
    return course.regrets()


def ask_and_tell(study: optuna.Study, course: Course, count: int) -> None:
    for trial in [study.ask(course.problem.space) for _ in range(count)]:
        loss = course.evaluate(trial.params)
        if math.isnan(loss):
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, loss)


def close(sampler: BaseSampler) -> None:
    if hasattr(sampler, "close"):
        sampler.close()


def bare(problem: Problem, seed: int, setting: Setting) -> Regrets:
    regrets: Regrets = bare_run(problem, seed, setting, BUDGETS[-1])["regrets"]
    return regrets


def bare_run(problem: Problem, seed: int, setting: Setting, evaluations: int) -> dict[str, Any]:
    """In a program of its own: PyNomad takes over the signals of the process that it runs in."""
    what = json.dumps([problem.name, seed, setting.block, setting.sensible, evaluations])
    program = [sys.executable, __file__, what]
    said = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def bare_main(what: str) -> None:
    """The program: prints the regrets, and the seconds between an answer and the next block."""
    import PyNomad

    name, seed, block_size, with_start, evaluations = json.loads(what)
    course = Course(problem(name), seed)
    variables = {name: Variable.of(distribution) for name, distribution in course.problem.space.items()}
    start = course.problem.start if with_start else drawn(course.problem, seed)
    x0 = [variable.code(start[name]) for name, variable in variables.items()]
    lower, upper = ([variable.low for variable in variables.values()], [v.high for v in variables.values()])
    waits: list[float] = []
    answered = time.perf_counter()

    def evaluate(asked: Any) -> list[bool] | int:
        nonlocal answered
        waits.append(time.perf_counter() - answered)
        several = hasattr(asked, "get_x")
        points = [asked.get_x(i) for i in range(asked.size())] if several else [asked]
        succeeded = []
        for point in points:
            first = len(course) == 0
            values = {name: each.value(point.get_coord(i)) for i, (name, each) in enumerate(variables.items())}
            loss = course.evaluate(values)
            succeeded.append(first or not math.isnan(loss))
            if succeeded[-1]:
                point.setBBO(("1e20" if math.isnan(loss) else f"{loss:.17g}").encode())
        answered = time.perf_counter()
        return succeeded if several else int(succeeded[0])

    parameters = [
        f"DIMENSION {len(variables)}",
        f"BB_INPUT_TYPE ( {' '.join(variable.kind for variable in variables.values())} )",
        "BB_OUTPUT_TYPE OBJ",
        f"MAX_BB_EVAL {evaluations}",
        f"SEED {seed}",
        "DISPLAY_DEGREE 0",
    ]
    if block_size > 1:
        parameters += [f"BB_MAX_BLOCK_SIZE {block_size}", "MEGA_SEARCH_POLL yes"]
    PyNomad.optimize(evaluate, x0, lower, upper, parameters)
    print("\n" + json.dumps({"regrets": course.regrets(), "waits": waits}), flush=True)


@dataclass(frozen=True)
class Variable:
    """As the paper gives NOMAD a variable: steps and choices by their number, whole numbers as they are, reals that are
    searched in log by their log10.
    """

    kind: str
    low: float
    high: float
    code: Callable[[Any], float]
    value: Callable[[float], Any]

    @classmethod
    def of(cls, distribution: BaseDistribution) -> Variable:
        match distribution:
            case FloatDistribution(low=low, high=high, step=float(step)):
                count = round((high - low) / step)  # six steps of .05 are a little over .3
                return cls("I", 0, count, lambda v: round((v - low) / step), lambda c: min(low + round(c) * step, high))
            case FloatDistribution(low=low, high=high, log=True):
                return cls("R", math.log10(low), math.log10(high), math.log10, lambda c: min(max(10**c, low), high))
            case FloatDistribution(low=low, high=high):
                return cls("R", low, high, float, float)
            case IntDistribution(low=low, high=high):
                return cls("I", low, high, float, round)
            case CategoricalDistribution(choices=choices):
                return cls("I", 0, len(choices) - 1, choices.index, lambda c: choices[round(c)])
        raise TypeError(f"no variable for {distribution}")


def drawn(problem: Problem, seed: int) -> dict[str, Any]:
    """A random start; what is searched in log is drawn so."""
    rng = np.random.default_rng([seed, 1])
    start: dict[str, Any] = {}
    for name, distribution in problem.space.items():
        variable = Variable.of(distribution)
        if isinstance(distribution, IntDistribution) and distribution.log:
            start[name] = round(2 ** rng.uniform(math.log2(distribution.low), math.log2(distribution.high)))
        elif variable.kind == "I":
            start[name] = variable.value(int(rng.integers(int(variable.low), int(variable.high) + 1)))
        else:
            start[name] = variable.value(rng.uniform(variable.low, variable.high))
    return start


def other(name: str, problem: Problem, seed: int, setting: Setting) -> Regrets:
    """A side of optimizer_others.py, which imports libraries that most installations lack."""
    import optimizer_others

    side: Callable[[Problem, int, Setting], Regrets] = getattr(optimizer_others, name)
    return side(problem, seed, setting)


SIDES: dict[str, Callable[[Problem, int, Setting], Regrets]] = {
    "batch-gp": partial(started, gp),
    "batch-gp, prior": partial(started, gp_known),
    "batch-gp, drawn start": partial(started, gp_drawn),
    "mads": partial(started, mads),
    "Optuna TPE": partial(plain, lambda _, seed, setting: TPESampler(seed=seed, constant_liar=setting.block > 1)),
    "Optuna GP": partial(plain, lambda _, seed, __: GPSampler(seed=seed)),
    "Optuna CMA-ES": partial(plain, lambda _, seed, __: CmaEsSampler(seed=seed)),
    "NNI TPE": partial(plain, nni),
    "BoTorch qLogNEI": partial(other, "botorch"),
    "HEBO": partial(other, "hebo"),
    "bare PyNomad": bare,
    "QMC": partial(plain, lambda _, seed, __: QMCSampler(scramble=True, seed=seed)),
    "grid": partial(plain, grid),
    "random": partial(plain, lambda _, seed, __: RandomSampler(seed=seed)),
}


def missing(side: str) -> str | None:
    """The package that a side lacks here."""
    needed = NEEDS.get(side)
    if needed == "nni" and os.environ.get("MESHTUNE_NNI_PYTHON"):
        return None  # it is in an environment of its own
    return needed if needed is not None and importlib.util.find_spec(needed) is None else None


if __name__ == "__main__":
    bare_main(sys.argv[1])
