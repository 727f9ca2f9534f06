"""Can "another 20 trials would be expected to gain .." be trusted, and what does stopping by it save and cost?

Searches of 100 trials in blocks of 8 on surfaces whose noise-free loss is known: those of benchmarks/problems.py, and
`sweep`: a surface for each model of the sweep of rate and rank in `priors/runs.jsonl`, of the shape and with the five
numbers that `meshtune.priors` estimates for it (a repeat there differs by .0001). After every block from the second to
the tenth meshtune is asked what another 20 trials would gain (`selection.expected_gain`), and the search shows what
they did: by how much the loss without noise of the recommended point fell, as a share of it. Prints a table by sampler
and kind of surface, and JSON lines:

- coverage: share of intervals that hold the true gain, with its own 95 % interval (over surfaces, which count once).
- bias: the mean of the expected gains over the mean of the true ones.
- stopping at 0.1 %: trials of the 100 that are saved, and the loss that is paid, beside stopping at 100; and the same
  for `no_improvement: 20`.

Of other samplers than batch-gp and gp the search is thought to go on by draws, half of them about the best points.

    python benchmarks/expected_gain.py [--seeds 3] [--samplers batch-gp mads tpe random] [--problems NAME ..]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from problems import PROBLEMS, Params, Problem, constant, problem, sensible, there
from scipy.stats import t as student

from meshtune.priors.advice import shipped
from meshtune.priors.effects import Effects, relative_loss
from meshtune.samplers.build import BatchGPSampler, MadsSampler
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.recommend import recommend
from meshtune.selection.expected_gain import BY_MODEL, TRIALS, gain_of

BLOCK, WHOLE = 8, 100
ASKED = range(2 * BLOCK, WHOLE - TRIALS + 1, BLOCK)
LEAST = 0.001
PATIENCE = 20
SWEEP_STEPS, REPEAT = 780, 0.0001
SWEEP_SPACE: dict[str, BaseDistribution] = {
    "rank_log2": IntDistribution(2, 7),
    "alpha": IntDistribution(1, 512, log=True),
    "learning_rate": FloatDistribution(1e-6, 1e-2, log=True),
}


@dataclass(frozen=True)
class Asked:
    """After so many trials: the expected gain, its interval, and the true one; shares of the loss."""

    trials: int
    mean: float
    low: float
    high: float
    true: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """One search. stop, patient: trials, and the share of the loss that is paid, of both ways to end early."""

    problem: str
    sampler: str
    asked: tuple[Asked, ...]
    stop: tuple[int, float]
    patient: tuple[int, float]


def sweep(effects: Effects, params: Params) -> float:
    product = params["learning_rate"] * params["alpha"]
    return math.exp(relative_loss(effects, product, 2 ** params["rank_log2"]))


def surfaces() -> dict[str, Problem]:
    """By name: those that can be made here, and the sweep's."""
    made = {name: problem(name) for name in PROBLEMS if there(name)}
    table = shipped()
    start = {name: value for name, value in sensible().items() if name in SWEEP_SPACE}
    for model, known in zip(table.models, table.known, strict=True):
        if known.facts.steps == SWEEP_STEPS:
            loss = partial(sweep, known.effects)
            made[f"sweep {model}"] = Problem(
                f"sweep {model}", SWEEP_SPACE, start, loss, partial(constant, REPEAT), math.nan, 2.0
            )
    return made


def sampler(name: str, of: Problem, seed: int) -> BaseSampler:
    match name:
        case "batch-gp":
            return BatchGPSampler(of.space, x0=of.start, block_size=BLOCK, seed=seed)
        case "mads":
            return MadsSampler(search_space=of.space, x0=of.start, block_size=BLOCK, seed=seed)
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True, multivariate=True)
        case _:
            return RandomSampler(seed=seed)


def searched(name: str, of: Problem, seed: int) -> list[FrozenTrial]:
    """The trials of one search; the start is its first trial."""
    made = sampler(name, of, seed)
    study = optuna.create_study(sampler=made)
    if name not in ("batch-gp", "mads"):  # which are told
        study.enqueue_trial(of.start)
    chance = np.random.default_rng([seed, 7])
    while len(study.trials) < WHOLE:
        asked = min(BLOCK, WHOLE - len(study.trials))
        for trial in [study.ask(of.space) for _ in range(asked)]:
            loss, noise = of.loss(trial.params), chance.standard_normal()
            if math.isnan(loss):
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, loss + of.noise(trial.params) * noise)
    if isinstance(made, MadsSampler):
        made.close()
    return study.get_trials(deepcopy=False)


def run(name: str, of: Problem, seed: int) -> Run:
    trials = searched(name, of, seed)

    def chosen(count: int) -> float:
        """The loss without noise of the point that is recommended after so many trials."""
        found = recommend(trials[:count], of.space, direction=StudyDirection.MINIMIZE)
        complete = [t for t in trials[:count] if t.value is not None]
        number = found.number if found else min(complete, key=lambda t: t.value or 0.0).number
        return of.loss(trials[number].params)

    asked, stop = list[Asked](), (WHOLE, 0.0)
    last = chosen(WHOLE)
    for count in ASKED:
        begun = time.perf_counter()
        complete = [trial.number for trial in trials[:count] if trial.state is TrialState.COMPLETE]
        found = gain_of(trials[:count], Encoding(of.space), complete, by_model=name in BY_MODEL)
        seconds = time.perf_counter() - begun
        if found is None:
            continue
        here = chosen(count)
        true = (here - chosen(count + TRIALS)) / here
        asked.append(Asked(count, found.mean, found.low, found.high, true, seconds))
        if found.mean < LEAST and stop[0] == WHOLE:
            stop = (count, (here - last) / here)
    since = patient(trials)
    return Run(of.name, name, tuple(asked), stop, (since, (chosen(since) - last) / chosen(since)))


def patient(trials: list[FrozenTrial]) -> int:
    """Where `no_improvement` ends it, at the end of a block."""
    best, since = math.inf, 0
    for number, trial in enumerate(trials, 1):
        improved = trial.value is not None and trial.value < best
        best, since = (trial.value or best, 0) if improved else (best, since + 1)
        if since >= PATIENCE and number % BLOCK == 0:
            return number
    return WHOLE


def kind(name: str) -> str:
    return "sweep" if name.startswith("sweep") else "nmt" if name == "nmt" else "made up and measured"


def summaries(runs: list[Run]) -> Iterator[dict[str, object]]:
    """JSON lines, by sampler and kind of surface."""
    for name, which in sorted({(run.sampler, kind(run.problem)) for run in runs}):
        mine = [run for run in runs if run.sampler == name and kind(run.problem) == which]
        asked = [each for run in mine for each in run.asked]
        by_problem = dict[str, list[bool]]()
        for one in mine:
            held = [each.low - 1e-12 <= each.true <= each.high + 1e-12 for each in one.asked]
            by_problem.setdefault(one.problem, []).extend(held)
        shares = [statistics.fmean(held) for held in by_problem.values()]
        mean, wide = statistics.fmean(shares), 0.0
        if len(shares) > 1:
            wide = float(student.ppf(0.975, len(shares) - 1)) * statistics.stdev(shares) / math.sqrt(len(shares))
        expected, true = (statistics.fmean(getattr(each, key) for each in asked) for key in ("mean", "true"))
        setting = f"{name}, {which}: {len(by_problem)} surfaces, {len(asked)} questions"
        yield {
            "name": "expected gain: coverage",
            "ours": mean,
            "theirs": 0.95,
            "ratio": mean / 0.95,
            "low": (mean - wide) / 0.95,
            "high": (mean + wide) / 0.95,
            "setting": setting,
            "width": statistics.median(each.high - each.low for each in asked),
            "expected": expected,
            "true": true,
            "below": statistics.fmean(each.true < each.low - 1e-12 for each in asked),
            "above": statistics.fmean(each.true > each.high + 1e-12 for each in asked),
            "seconds": statistics.median(each.seconds for each in asked),
        }
        for how in ("stop", "patient"):
            ends = [getattr(run, how) for run in mine]
            yield {
                "name": f"expected gain: {'below 0.1 %' if how == 'stop' else f'no_improvement {PATIENCE}'}",
                "setting": setting,
                "trials": statistics.fmean(end[0] for end in ends),
                "ended_early": statistics.fmean(end[0] < WHOLE for end in ends),
                "paid": statistics.fmean(end[1] for end in ends),
                "paid_at_most": max(end[1] for end in ends),
            }


def main() -> None:
    """Run all searches and print what they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samplers", nargs="+", default=["batch-gp", "mads", "tpe", "random"])
    parser.add_argument("--problems", nargs="+")
    arguments = parser.parse_args()
    optuna.logging.disable_default_handler()
    warnings.simplefilter("ignore")
    made = {name: of for name, of in surfaces().items() if not arguments.problems or name in arguments.problems}
    runs = [
        run(name, of, seed) for name in arguments.samplers for of in made.values() for seed in range(arguments.seeds)
    ]
    for line in summaries(runs):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
