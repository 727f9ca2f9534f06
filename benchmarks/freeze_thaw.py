"""What the model of points and curves is worth: its calibration, searches replayed with it, and the time of a decision.

Calibration, on real curves of a table: 30 trials of one seed, of which 10 ended and the others stand at some rung; how
far off is the loss that is predicted for their end, by rung, and how many are within the intervals of 80 and 95 %.

Replays, on the surrogate of `learning_curves.py`, in blocks of 1, 8 and 16: a search has so many places, a place trains
one trial from a rung to the next, and then is free again. `freeze-thaw` lets `meshtune.stopping.places` decide, and
takes new points from the same model by batch-gp's rules; a frozen trial may go on until the search ends, which it does
when no trial that is left has a chance. Beside it, with as many trials: batch-gp with `asha` (the best quarter of a
rung goes on) and `median` (the better half) inside the pack, where the losses of all that ran until now decide, and
what stops is told as predicted; `default`, batch-gp with the rule `default` as a study has it, promotions included;
and TPE with Optuna's SuccessiveHalving and Hyperband and with Ray Tune's ASHAScheduler, in as many places.

All against batch-gp's full search: tokens to its best loss plus a deviation between seeds; and for an equal number of
trials the share of tokens `saved` with the `cost` in loss, also in deviations between seeds. `knowing`: tokens to the
target of a full search whose trials end at the first rung, but the baseline and the one that has the target. Long
tables have the surrogate `Borrowing`, whose error is printed first. The short one and `embedded-252` chose the model
and when trials may freeze. The other long ones chose nothing.

Time of a decision: the model's solve, draws and places at 100 trials and 6 rungs, over the plain solve of 600 losses.

Prints JSON lines; medians, ratio: median of theirs / ours paired by seed (0 where ours has not found the target).

    python benchmarks/freeze_thaw.py [--seeds 25 75] [--trials 100] [--blocks 1 8 16] [--sides freeze-thaw asha ..]
        [--tables NAME.jsonl ..] [--trainings 12] [--only calibration replays time]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import optuna
from learning_curves import TABLE, Borrowing, Surrogate, Table, unit
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from replay import SPACE, WHOLE, Course, Log, Search, Spent, replayed

from meshtune.config import presets
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import SamplerConfig
from meshtune.record.distributions import distributions
from meshtune.samplers.build import build
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.acquisition import best_point, log_improvement, log_news
from meshtune.samplers.gp.space import Array, Cube
from meshtune.stopping.freeze_thaw import Factor, Measured, Model, fit
from meshtune.stopping.places import LEAST, decide
from meshtune.stopping.rules import Curve, Stopping
from meshtune.trial import Ending, Outcome

NAME = "freeze_thaw"
STARTUP = 8  # the baseline and a Latin hypercube, as batch-gp begins
SIDES = ("freeze-thaw", "default", "asha", "median", "SuccessiveHalving", "Hyperband", "Ray's ASHA")
START = SPACE.encode(presets.RECOMMENDED_BASELINE)
Curves = Surrogate | Borrowing


@dataclass
class Run:
    """Trials that train from rung to rung. `done`: rungs that each has passed, the end among them."""

    course: Course
    trials: int
    params: list[dict[str, Any]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    waiting: int = 0  # tokens of trials that have not finished since the last that has

    @property
    def rungs(self) -> int:
        return len(self.course.surrogate.fractions)

    def begin(self, params: dict[str, Any]) -> int:
        self.params.append(params)
        self.done.append(0)
        return len(self.params) - 1

    def advance(self, trial: int) -> bool:
        """To the next rung; whether that is the end."""
        tokens = (0.0, *self.course.surrogate.tokens)
        self.done[trial] += 1
        self.waiting += round(WHOLE * (tokens[self.done[trial]] - tokens[self.done[trial] - 1]))
        if ended := self.done[trial] == self.rungs:
            self.spent.add(self.waiting, self.course.final(self.params[trial]), True)
            self.waiting = 0
        return ended

    def measured(self, trial: int) -> list[Measured]:
        """What is known of it."""
        losses, shares = self.course.curve(self.params[trial]), self.course.surrogate.tokens
        passed = list(zip(shares, losses, strict=True))[: self.done[trial]]
        return [*passed[:-1], (1.0, self.course.final(self.params[trial]))] if len(passed) == self.rungs else passed

    def close(self) -> Spent:
        """What was spent, with the trials that did not end."""
        for trial, done in enumerate(self.done):
            if done < self.rungs:
                self.spent.add(self.waiting, self.course.final(self.params[trial]), False)
                self.waiting = 0
        return self.spent


def thawed(surrogate: Curves, block: int, seed: int, trials: int, noise: float, least: float = LEAST) -> Spent:
    """A search by the model of points and curves; `least`: the chance under which a trial freezes."""
    run, cube = Run(Course(surrogate, seed), trials), Cube(Encoding(distributions(SPACE)))
    opening = _opening(seed, min(STARTUP, trials))
    run.begin(opening.pop(0))
    while not run.advance(0):
        pass
    while opening:
        for params in [opening.pop(0) for _ in range(min(block, len(opening)))]:
            run.advance(run.begin(params))
    model: Model | None = None
    while True:
        count = len(run.params)
        rows = cube.rows(run.params)
        curves = [run.measured(trial) for trial in range(count)]
        model = fit(cube.features(rows), cube.columns, curves, None if model is None else model.parameters)
        new = proposed(model, cube, rows, min(block, trials - count), [seed, count])
        decision = decide(model, block, noise, cube.features(new), least)
        if not decision.places:
            return run.close()
        for place in sorted(decision.places):
            run.advance(place if place < count else run.begin(cube.encoding.decode(new[place - count].tolist())))


def _opening(seed: int, count: int) -> list[dict[str, Any]]:
    """The baseline, then batch-gp's first points."""
    log = Log()
    sampler = build(SamplerConfig(name="batch-gp"), log.space, x0=START, block_size=STARTUP, seed=seed, pruned="value")
    log.mirror.enqueue_trial(START)
    return [log.ask(RandomSampler(0)), *(log.ask(sampler) for _ in range(count - 1))]


def proposed(model: Model, cube: Cube, rows: Array, count: int, seed: Sequence[int]) -> Array:
    """New points from the model, (count, variables): by improvement and by lower bound in turn, as batch-gp does."""
    taken, pending = set(cube.keys(rows)), cube.features(rows[:0])
    means = model.end(model.curves.features, pending)[0]
    around, own, found = rows[np.argsort(means, kind="stable")[:5]], math.sqrt(model.parameters.own), []

    def improvement(points: Array) -> Array:
        mean, deviation = model.end(cube.features(points), pending)
        return log_improvement(mean, deviation, means.min()) + log_news(deviation, own)

    def bound(points: Array) -> Array:
        mean, deviation = model.end(cube.features(points), pending)
        score: Array = deviation - mean - 1e3 * (deviation < 0.5 * own)
        return score

    for place in range(count):
        score: Callable[[Array], Array] = bound if (len(rows) + place) % 2 else improvement
        row = best_point(cube, score, around, taken, {}, np.random.default_rng([*seed, place]))
        found.append(row)
        taken.add(cube.keys(row[None])[0])
        pending = np.concatenate([pending, cube.features(row[None])])
    return np.array(found).reshape(count, len(cube))


def ruled(surrogate: Curves, block: int, seed: int, trials: int, rule: Literal["asha", "median"]) -> Spent:
    """batch-gp, with a rule that decides inside the pack by the losses of all that ran until then."""
    run, log = Run(Course(surrogate, seed), trials), Log()
    sampler = build(SamplerConfig(name="batch-gp"), log.space, x0=START, block_size=block, seed=seed, pruned="value")
    rules = Stopping(rule, surrogate.fractions[:-1], startup=3, keep=0.25 if rule == "asha" else 0.5)

    def curves() -> list[Curve]:
        known = [[loss for _, loss in run.measured(trial)] for trial in range(len(run.params))]
        ends = [losses[-1] if len(losses) == run.rungs else None for losses in known]
        return [Curve(tuple(each[: run.rungs - 1]), end) for each, end in zip(known, ends, strict=True) if each]

    def tell(trial: int, ending: Ending, value: float | None) -> None:
        measured = run.measured(trial)
        rungs = tuple((round(WHOLE * share), loss) for share, loss in measured if share < 1)
        log.tell(Outcome(trial, 1, ending, loss=measured[-1][1], rungs=rungs), value)

    def ask(of: Any) -> int:
        params = log.ask(of)
        log.add(params, ())
        return run.begin(params)

    log.mirror.enqueue_trial(START)
    running = [ask(RandomSampler(0))]
    while not run.advance(running[0]):
        pass
    tell(running.pop(), Ending.COMPLETE, None)
    while running or len(run.params) < trials:
        running += [ask(sampler) for _ in range(min(block - len(running), trials - len(run.params)))]
        ended = [trial for trial in running if run.advance(trial)]
        thresholds = rules.thresholds(curves())
        running = [trial for trial in running if trial not in ended]
        for trial in ended:
            tell(trial, Ending.COMPLETE, None)
        for trial in list(running):
            losses = tuple(loss for _, loss in run.measured(trial))
            limit = thresholds[len(losses) - 1]
            if limit is not None and losses[-1] > limit:
                tell(trial, Ending.STOPPED_EARLY, rules.predicted_value(curves(), Curve(losses)))
                running.remove(trial)
    return run.close()


class RaysAsha:
    """Ray Tune's ASHAScheduler, asked as its controller asks."""

    def __init__(self, first: int, last: int):
        from ray.tune.schedulers import ASHAScheduler

        self._scheduler = ASHAScheduler("step", "loss", "min", max_t=last, grace_period=first, reduction_factor=3)

    def stops(self, trial: int, step: int, loss: float) -> bool:
        """What it says to a report."""
        named, scheduler = SimpleNamespace(trial_id=str(trial)), self._scheduler
        if named.trial_id not in scheduler._trial_info:
            scheduler.on_trial_add(None, named)
        return bool(scheduler.on_trial_result(None, named, {"step": step, "loss": loss}) == "STOP")


def pruned(
    surrogate: Curves, block: int, seed: int, trials: int, pruner: BasePruner | None, ray: RaysAsha | None = None
) -> Spent:
    """Optuna's TPE with one of its pruners or with Ray's scheduler, in so many places."""
    run = Run(Course(surrogate, seed), trials)
    study = optuna.create_study(study_name=f"search {seed}", sampler=TPESampler(seed=seed), pruner=pruner)
    study.enqueue_trial(START)
    running: list[tuple[optuna.Trial, int]] = []
    while running or len(run.params) < trials:
        while len(running) < block and len(run.params) < trials:
            asked = study.ask(distributions(SPACE))
            running.append((asked, run.begin(asked.params)))
        left = []
        for trial, number in running:
            ended = run.advance(number)
            loss = run.measured(number)[-1][1]
            step = round(100 * surrogate.fractions[run.done[number] - 1])
            trial.report(loss, step)
            if ended:
                study.tell(trial, loss)
            elif trial.should_prune() if ray is None else ray.stops(number, step, loss):
                study.tell(trial, state=TrialState.PRUNED)
            else:
                left.append((trial, number))
        running = left
    return run.close()


def searched(side: str, surrogate: Curves, block: int, seed: int, trials: int, noise: float) -> Spent:
    """One search of a side."""
    if side == "freeze-thaw":
        return thawed(surrogate, block, seed, trials, noise)
    if side == "asha" or side == "median":
        return ruled(surrogate, block, seed, trials, side)
    if side == "default":
        config = EarlyStoppingConfig(rule="default", rungs=surrogate.fractions[:-1])
        return replayed(Search("batch-gp", block, config), surrogate, seed, trials)
    steps = [round(100 * share) for share in surrogate.fractions]
    if side == "Ray's ASHA":
        return pruned(surrogate, block, seed, trials, None, RaysAsha(steps[0], steps[-1]))
    if side == "SuccessiveHalving":
        return pruned(surrogate, block, seed, trials, SuccessiveHalvingPruner(steps[0], reduction_factor=3))
    return pruned(surrogate, block, seed, trials, HyperbandPruner(steps[0], steps[-1], 3))


def knowing(surrogate: Curves, reached: Sequence[float]) -> list[float]:
    """Whole trainings to a target by who knows, where full searches reached it with so many: all trials end at the
    first rung, but the baseline and the one that has the target.
    """
    return [1 + (each > 1) * (1 + surrogate.tokens[0] * (each - 2)) for each in reached]


def replays(
    surrogate: Curves, task: str, block: int, sides: Sequence[str], seeds: Sequence[int], trials: int, noise: float
) -> Iterator[dict[str, Any]]:
    """One cell: a task and a size of blocks."""
    whole = [replayed(Search("batch-gp", block), surrogate, seed, trials) for seed in seeds]
    found = {side: [searched(side, surrogate, block, seed, trials, noise) for seed in seeds] for side in sides}
    where = f"{task}, blocks of {block}, {trials} trials, {len(seeds)} seeds"
    for name, deviation in (("a deviation", surrogate.deviation), ("a trial's own", surrogate.own)):
        theirs = [each.reached(each.best + deviation) / WHOLE for each in whole]
        targets = [each.best + deviation for each in whole]
        for side, spent in found.items():
            ours = [each.reached(target) / WHOLE for each, target in zip(spent, targets, strict=True)]
            made = line(ours, theirs, f"to the best plus {name}: {side} | full search: {where}")
            yield made | {
                "knowing": round(statistics.median(knowing(surrogate, theirs)), 2),
                "missed": sum(map(math.isinf, ours)),
            }
    for side, spent in found.items():
        ours, theirs = [each.total / WHOLE for each in spent], [each.total / WHOLE for each in whole]
        costs = [each.best - full.best for each, full in zip(spent, whole, strict=True)]
        spread = statistics.stdev(costs) / math.sqrt(len(costs)) if len(costs) > 1 else None
        made = line(ours, theirs, f"an equal number of trials: {side} | full search: {where}")
        made |= {"saved": round(1 - sum(ours) / sum(theirs), 3), "cost": round(statistics.mean(costs), 4)}
        made |= {"in_deviations": round(statistics.mean(costs) / surrogate.deviation, 2)}
        yield made | {"cost_error": None if spread is None else round(spread, 4)}


def line(ours: Sequence[float], theirs: Sequence[float], setting: str) -> dict[str, Any]:
    ratios = [other / mine if math.isfinite(mine) else 0.0 for mine, other in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0], 0, ratios[0])
    mine = statistics.median(ours)
    made: dict[str, Any] = {"name": NAME, "ours": round(mine, 2) if math.isfinite(mine) else None}
    made |= {"theirs": round(statistics.median(theirs), 2), "ratio": round(statistics.median(ratios), 2)}
    return made | {"low": round(low, 2), "high": round(high, 2), "setting": setting}


def curves_of(path: Path) -> tuple[str, tuple[float, ...], list[tuple[int, Array, list[Measured]]]]:
    """A table's curves: task, shares, and of each training its seed, point and losses. Long tables: those with wsd, at
    each share the running average where there is one."""
    head, *lines = [json.loads(text) for text in path.read_text().split("\n")[:-1]]
    if "shares" not in head:
        table = Table.read(path)
        return (
            "short, cosine",
            table.tokens,
            [
                (seed, unit(table.params[point, seed]), list(zip(table.tokens, losses.tolist(), strict=True)))
                for (point, seed), losses in table.curves.items()
                if point >= 0
            ],
        )
    shares, found = tuple(head["shares"]), []
    for each in lines:
        if each["ending"] == "complete" and each["schedule"] == "wsd" and each["point"] >= 0:
            found.append((each["seed"], unit(each["params"]), list(zip(shares, each["losses"], strict=True))))
    return f"{head['task']}, wsd", shares, found


def calibration(path: Path, repeats: int = 20, count: int = 30, ended: int = 10) -> Iterator[dict[str, Any]]:
    """Predicted against true ends, by rung; a line each. Nothing where a seed has too few curves."""
    task, shares, trainings = curves_of(path)
    found: dict[int, list[tuple[float, bool, bool]]] = {}
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        of_seed = [(point, curve) for seed, point, curve in trainings if seed == repeat % 2]
        if len(of_seed) < count:
            continue
        chosen = [of_seed[k] for k in rng.permutation(len(of_seed))[:count]]
        stands = [len(shares)] * ended + rng.integers(1, len(shares), count - ended).tolist()
        curves = [curve[:stand] for (_, curve), stand in zip(chosen, stands, strict=True)]
        finals = fit(np.array([point for point, _ in chosen]), np.arange(4), curves).final()
        ends = np.array([curve[-1][1] for _, curve in chosen])
        within = [(finals.at((1 - p) / 2) < ends) & (ends < finals.at((1 + p) / 2)) for p in (0.8, 0.95)]
        off = np.abs(finals.at(0.5) - ends)
        for trial in range(ended, count):
            hits = bool(within[0][trial]), bool(within[1][trial])
            found.setdefault(stands[trial], []).append((float(off[trial]), *hits))
    for stand, rows in sorted(found.items()):
        made: dict[str, Any] = {"name": NAME, "ours": round(statistics.median(row[0] for row in rows), 4)}
        made |= {"theirs": None, "ratio": None, "low": None, "high": None}
        made["setting"] = f"median error of a predicted end, measured until {100 * shares[stand - 1]:.0f} %: {task}"
        covered = {f"within_{p}": round(statistics.mean(row[k] for row in rows), 2) for k, p in ((1, 80), (2, 95))}
        yield made | covered | {"predictions": len(rows)}


def times(repeats: int = 15) -> dict[str, Any]:
    """Milliseconds of a decision at 100 trials and 6 rungs, and of the plain solve; processor time, in turn."""
    table, rng = Table.read(), np.random.default_rng(0)
    curves = [list(zip(table.tokens, table.curves[point, 0].tolist(), strict=True)) for point in table.pairs]
    curves = [curve if k < 20 else curve[: rng.integers(3, 6)] for k, curve in enumerate(curves)]
    points = np.array([unit(table.params[point, 0]) for point in table.pairs])
    model = fit(points, np.arange(4), curves)
    covariance = np.cov(rng.normal(size=(600, 1200))) + np.eye(600)
    right, fresh = rng.normal(size=(600, 109)), rng.random((8, 4))

    def decision() -> None:
        decide(Model(model.curves, model.parameters, model.logarithm), 8, 0.0, fresh)

    def fitted() -> None:
        fit(points, np.arange(4), curves, model.parameters)

    def plain() -> None:
        np.linalg.solve(covariance, right)

    taken: Mapping[str, list[float]] = {"decision": [], "fit": [], "plain": []}
    for _ in range(repeats):
        for name, what in (("decision", decision), ("fit", fitted), ("plain", plain)):
            begun = time.process_time()
            what()
            taken[name].append(1000 * (time.process_time() - begun))
    made = line(taken["decision"], taken["plain"], "ms of a decision at 100 trials and 6 rungs | a plain solve of 600")
    factor = [_milliseconds(lambda: Factor(model.curves, model.parameters)) for _ in range(repeats)]
    return made | {"factor": round(statistics.median(factor), 1), "fit": round(statistics.median(taken["fit"]), 1)}


def _milliseconds(what: Callable[[], object]) -> float:
    begun = time.process_time()
    what()
    return 1000 * (time.process_time() - begun)


def surrogate_of(path: Path, trainings: int | None) -> Curves:
    """Of the short table, or of a long one."""
    with path.open(encoding="utf-8") as table:
        long = "shares" in json.loads(table.readline())
    return Borrowing(path, Surrogate(Table.read()), trainings) if long else Surrogate(Table.read(path))


def error(surrogate: Curves, task: str) -> dict[str, Any]:
    """How far a surrogate is from the points that it stands on, each predicted without itself, over the better half;
    beside it the deviation between seeds."""
    made: dict[str, Any] = {"name": NAME, "ours": round(surrogate.error, 3), "theirs": round(surrogate.deviation, 3)}
    made |= {"ratio": None, "low": None, "high": None, "explained": round(surrogate.explained, 2)}
    return made | {"setting": f"error of the surrogate at the end | between seeds: {task}, {surrogate.points} points"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(25, 75), metavar=("FIRST", "END"))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--tables", type=Path, nargs="+", default=[TABLE])
    parser.add_argument("--trainings", type=int, help="of a long table, the first so many (default: all)")
    parser.add_argument("--noise", type=float, default=0.0, help="of a decision, in the deviation between seeds")
    parts = ("calibration", "replays", "time")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if "time" in arguments.only:
        print(json.dumps(times()), flush=True)
    for path in arguments.tables:
        if "calibration" in arguments.only:
            for each in calibration(path):
                print(json.dumps(each), flush=True)
        if "replays" in arguments.only:
            surrogate = surrogate_of(path, arguments.trainings)
            print(json.dumps(error(surrogate, path.stem)), flush=True)
            noise = arguments.noise * surrogate.deviation
            for block in arguments.blocks:
                seeds = range(*arguments.seeds)
                for each in replays(surrogate, path.stem, block, arguments.sides, seeds, arguments.trials, noise):
                    print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
