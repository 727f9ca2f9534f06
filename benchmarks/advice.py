"""Is advice better than a constant? On models that it has not seen, of the table that ships, `priors/runs.jsonl`.

Two ways to leave out: `generation`, all models of a family's generation at once (qwen3, qwen3.5, qwen3.6, kimi-k2,
gpt-oss), and `model`, one model while others of its generation stay. The model behind advice is fitted anew to what is
left each time, so that nothing of what is left out has a say; only its shape and its priors were chosen on all tasks.

- The start: how far its loss lies above the best of the model's grid, in % of the loss: at the grid's nearest rate,
  and by a shape-preserving interpolation of the loss at the grid's largest rank. Beside it are the constant (3e-4), ten
  times full fine-tuning's rate (of 5e-5), and `5e-4 (2000 / hidden)^p` with p = .0775 (.781 for Llama).
- After n trials on the grid's points: the advice's start and portfolio; TPE, batch-gp and random points from the
  constant on, so many seeds each; batch-gp as a study with `baseline: advised` has it, from the advice's start with
  what is known; and batch-gp from the common start (rank 16, rate 2e-4), as with `baseline: common`.
- The 95 % interval of the expected gain over the start, against the true one.
- Step counts left out: each task of the embedded model, while its tasks of other lengths stay.
- More passes over the rows than the table has: the long tables of curves/ (three passes; the loss at the end, and the
  lowest of three measured about the ends of the passes), and curves/passes.jsonl (five), which are not in it.

    python benchmarks/advice.py [--seeds 10] [--results FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from scipy.interpolate import PchipInterpolator

from meshtune.plan.advice import FIRST
from meshtune.priors import advice, effects, runs
from meshtune.priors.advice import ALPHA, OF_ONE_GENERATION, RATE, Place, Table
from meshtune.priors.known import Known
from meshtune.priors.runs import Facts, Task
from meshtune.record.distributions import distributions
from meshtune.samplers.build import BatchGPSampler
from meshtune.space.space import Space, choice
from tools.fit_priors import table

TRIALS, SEARCHED = 8, 12  # of the advice, and of the samplers beside it
FULL, HIDDEN = 5e-5, 2000
POWERS = {"llama": 0.781}
QWENS_POWER = 0.0775
CURVES = Path(__file__).with_name("curves")
LONG = ("alpaca-libre", "dolly-hh", "embedded")  # tables of 252 steps


@dataclass(frozen=True)
class Grid:
    """A task's runs with alpha 32, by (rate, rank): the excess over the grid's best, as a share of the best."""

    task: Task
    excess: dict[Place, float]

    @classmethod
    def of(cls, task: Task) -> Grid:
        losses = dict[Place, list[float]]()
        for run in task.runs:
            if run.alpha == ALPHA:
                losses.setdefault((run.learning_rate, run.rank), []).append(run.loss)
        means = {place: statistics.fmean(values) for place, values in losses.items()}
        best = min(means.values())
        return cls(task, {place: loss / best - 1 for place, loss in means.items()})

    @property
    def rank(self) -> int:
        """The largest."""
        return max(rank for _, rank in self.excess)

    def nearest(self, rate: float, rank: int | None = None) -> Place:
        of_rank = [place for place in self.excess if place[1] == (rank or self.rank)]
        return min(of_rank, key=lambda place: abs(math.log(place[0] / rate)))

    def between(self, rate: float) -> float:
        """At the largest rank; at an end of the grid, and where two rates are all, the nearest one's."""
        rates = sorted(place[0] for place in self.excess if place[1] == self.rank)
        if len(rates) < 3 or not rates[0] < rate < rates[-1]:
            return self.excess[self.nearest(rate)]
        values = [self.excess[each, self.rank] for each in rates]
        return float(PchipInterpolator([math.log(each) for each in rates], values)(math.log(rate)))


def rates(known: Table, grid: Grid) -> dict[str, float]:
    """Of each way to choose one, at the grid's largest rank. `shipped` is what advice does; `model` its model alone."""
    facts, rank = grid.task.facts, grid.rank
    predicted = advice.expected(known, facts)
    own = advice.lowest(advice.candidates(predicted, [rank]), predicted.draws(advice.DRAWS))[0]
    alike = sum(task.facts.family == facts.family for task in known.known)
    constant = RATE * 10 ** advice.step_shift(known, facts)
    power = POWERS.get(facts.root, QWENS_POWER)
    return {
        "shipped": own if alike >= OF_ONE_GENERATION else constant,
        "model": own,
        "constant": RATE,
        "ten times full": 10 * FULL,
        "hidden size": 10 * FULL * (HIDDEN / facts.hidden_size) ** power,
    }


def after(known: Table, grid: Grid, start: Place) -> list[float]:
    """The excess of the best of the first n points of the advice, on the grid's points."""
    draws = advice.expected(known, grid.task.facts).draws(advice.DRAWS, wider=advice.WIDER)
    order = [start, *advice.portfolio(start, sorted(grid.excess), draws, TRIALS - 1)]
    return running([grid.excess[place] for place in order])


def running(values: Sequence[float], count: int = TRIALS) -> list[float]:
    """The lowest so far; the last one stays for all further trials."""
    found = [min(values[: n + 1]) for n in range(len(values))]
    return (found + found[-1:] * count)[:count]


def interval(known: Table, grid: Grid, start: Place) -> tuple[float, float, float]:
    """The 95 % interval of the gain over the start on the grid's points, and the true one."""
    gains = []
    for draw in advice.expected(known, grid.task.facts).draws(advice.DRAWS):
        losses = {place: effects.relative_loss(draw, place[0] * ALPHA, place[1]) for place in grid.excess}
        gains.append(1 - math.exp(min(losses.values()) - losses[start]))
    gains.sort()
    low, high = (gains[round(share * (len(gains) - 1))] for share in (0.025, 0.975))
    return low, high, grid.excess[start] / (1 + grid.excess[start])


Make = Callable[[int, dict[str, Any]], optuna.samplers.BaseSampler]
SAMPLERS: dict[str, Make] = {
    "TPE": lambda seed, _: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=4),
    "batch-gp": lambda seed, space: BatchGPSampler(space, seed=seed),
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
}


def searched(make: Make, grid: Grid, seed: int, start: Place | None = None) -> list[float]:
    """The excess of the best after each trial on the grid; a point that is missing there, since it diverged, fails.

    `start`: in place of the constant.
    """
    all_rates, ranks = (sorted({place[k] for place in grid.excess}) for k in (0, 1))
    highs = {"rate": len(all_rates) - 1, "rank": len(ranks) - 1}
    space = {name: optuna.distributions.IntDistribution(0, high) for name, high in highs.items()}
    study = optuna.create_study(sampler=make(seed, space))
    rate, rank = start or grid.nearest(RATE)
    study.enqueue_trial({"rate": all_rates.index(rate), "rank": ranks.index(rank)})
    return told(study, space, grid, lambda params: (all_rates[params["rate"]], ranks[params["rank"]]))


def told(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    grid: Grid,
    place: Callable[[Mapping[str, Any]], Place],
) -> list[float]:
    """The excess of the best after each trial of a search on the grid. `place`: of a trial's parameters."""
    values = list[float]()
    for _ in range(SEARCHED):
        trial = study.ask(dict(space))
        excess = grid.excess.get(place(trial.params))
        values.append(1.0 if excess is None else excess)
        study.tell(trial, values[-1])
    return running(values, SEARCHED)


def known_search(known: Table, grid: Grid, start: Place, seed: int) -> list[float]:
    """As `searched`, by batch-gp with what is known, from the advice's start."""
    all_rates, ranks = (sorted({place[k] for place in grid.excess}) for k in (0, 1))
    space = Space((choice("learning_rate", all_rates), choice("rank", ranks)), {"alpha": ALPHA, "dropout": 0.0})
    predicted = advice.expected(known, grid.task.facts)
    draws = predicted.draws(advice.DRAWS, wider=advice.WIDER)
    order = advice.portfolio(start, sorted(grid.excess), draws, FIRST)
    points = [{"learning_rate": rate, "rank": rank, "alpha": ALPHA, "dropout": 0.0} for rate, rank in order]
    knows = Known.of(space, predicted, points, {})
    x0 = space.encode({"learning_rate": start[0], "rank": start[1]})
    study = optuna.create_study(sampler=BatchGPSampler(distributions(space), x0=x0, seed=seed, known=knows))

    def place(params: Mapping[str, Any]) -> Place:
        point = space.decode(params)
        return point["learning_rate"], point["rank"]

    return told(study, distributions(space), grid, place)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float, float]:
    """Of the mean excesses, with a 95 % bootstrap interval over models; 1e-5, the losses' last digit, is added."""
    rng = random.Random(0)
    pairs = list(zip(theirs, ours, strict=True))

    def of(some: Sequence[tuple[float, float]]) -> float:
        return (1e-5 + statistics.fmean(a for a, _ in some)) / (1e-5 + statistics.fmean(b for _, b in some))

    drawn = sorted(of(rng.choices(pairs, k=len(pairs))) for _ in range(2000))
    return of(pairs), drawn[50], drawn[1949]


@dataclass
class Left:
    """What was measured on one left-out model, in shares of the loss."""

    cell: dict[str, float]
    between: dict[str, float]
    after: list[float]
    gain: tuple[float, float, float]


def measured(known: Table, grid: Grid) -> Left:
    chosen = rates(known, grid)
    start = grid.nearest(chosen["shipped"])
    return Left(
        {name: grid.excess[grid.nearest(rate)] for name, rate in chosen.items()},
        {name: grid.between(rate) for name, rate in chosen.items()},
        after(known, grid, start),
        interval(known, grid, start),
    )


def show(way: str, found: Sequence[Left]) -> list[dict[str, Any]]:
    """Print the figures of one way to leave out, and give the lines for machines."""
    print(f"\nleft out by {way}: {len(found)} models; excess over the grid's best in %: mean, worst")
    for name in found[0].cell:
        cells, between = ([100 * getattr(each, kind)[name] for each in found] for kind in ("cell", "between"))
        print(
            f"  {name:15} nearest cell {statistics.fmean(cells):.3f} {max(cells):.2f}   "
            f"interpolated {statistics.fmean(between):.3f} {max(between):.2f}"
        )
    for n in range(TRIALS):
        values = [100 * each.after[n] for each in found]
        print(f"  advice after {n + 1}: {statistics.fmean(values):.3f} {max(values):.2f}")
    covered = sum(low - 1e-9 <= true <= high + 1e-9 for low, high, true in (each.gain for each in found))
    width = statistics.fmean(high - low for low, high, _ in (each.gain for each in found))
    print(f"  the 95 % interval of the gain holds the true one in {covered} of {len(found)}; mean width {width:.2%}")
    lines = []
    for kind in ("cell", "between"):
        for name in ("constant", "ten times full", "hidden size"):
            theirs, ours = ([getattr(each, kind)[who] for each in found] for who in (name, "shipped"))
            value, low, high = ratio(theirs, ours)
            setting = f"left out by {way}, {kind}, {len(found)} models, excess of the start"
            lines.append(
                {
                    **{"name": f"advice over {name}", "ours": statistics.fmean(ours)},
                    **{"theirs": statistics.fmean(theirs), "ratio": value, "low": low, "high": high},
                    "setting": setting,
                }
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    tasks = runs.read(runs.SHIPPED)
    sweep = [Grid.of(task) for task in tasks if task.data == "Tulu-3"]
    lines, by_way = list[dict[str, Any]](), dict[str, list[Left]]()
    for way in ("generation", "model"):
        tables = dict[str, Table]()
        for grid in sweep:
            key = grid.task.facts.family if way == "generation" else grid.task.model
            if key not in tables:
                left = grid.task.facts.family if way == "generation" else None
                rest = [t for t in tasks if (t.facts.family != left if left else t is not grid.task)]
                tables[key] = table(rest)
            by_way.setdefault(way, []).append(measured(tables[key], grid))
        lines += show(way, by_way[way])
    lines += others(sweep, by_way["generation"], given.seeds)
    both_baselines(tasks, sweep, given.seeds)
    steps_left_out(tasks)
    more_passes()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    print(text, end="")
    if given.results:
        given.results.write_text(text)


def others(sweep: Sequence[Grid], ours: Sequence[Left], seeds: int) -> list[dict[str, Any]]:
    """Samplers that know nothing, on the same grids."""
    print(f"\non the same grids, from the constant on, {seeds} seeds: mean %, worst model's mean %, after n trials")
    lines = []
    for name, make in SAMPLERS.items():
        means = []
        for grid in sweep:
            found = [searched(make, grid, seed) for seed in range(seeds)]
            means.append([statistics.fmean(each[n] for each in found) for n in range(SEARCHED)])
        for n in range(SEARCHED):
            values = [100 * each[n] for each in means]
            print(f"  {name} after {n + 1}: {statistics.fmean(values):.3f} {max(values):.2f}")
        theirs, mine = [each[3] for each in means], [each.after[3] for each in ours]
        value, low, high = ratio(theirs, mine)
        setting = f"left out by generation, {len(sweep)} models, excess after 4 trials on the grid, {seeds} seeds"
        lines.append(
            {
                **{"name": f"advice over {name}", "ours": statistics.fmean(mine), "theirs": statistics.fmean(theirs)},
                **{"ratio": value, "low": low, "high": high, "setting": setting},
            }
        )
    return lines


def both_baselines(tasks: Sequence[Task], sweep: Sequence[Grid], seeds: int) -> None:
    """batch-gp as with `baseline: advised` and as with `baseline: common`, with each generation left out."""
    found: dict[str, list[list[float]]] = {"advised": [], "common": []}
    for grid in sweep:
        facts = grid.task.facts
        left = table([task for task in tasks if task.facts.family != facts.family])
        start = grid.nearest(rates(left, grid)["shipped"])
        usual = min(grid.excess, key=lambda place: (abs(math.log(place[1] / 16)), abs(math.log(place[0] / 2e-4))))
        runs_of = {
            "advised": [known_search(left, grid, start, seed) for seed in range(seeds)],
            "common": [searched(SAMPLERS["batch-gp"], grid, seed, usual) for seed in range(seeds)],
        }
        for name, each in runs_of.items():
            found[name].append([statistics.fmean(run[n] for run in each) for n in range(SEARCHED)])
    print(f"\nbatch-gp by baseline, a generation left out, {seeds} seeds: mean %, worst model's mean %, after n trials")
    for name, means in found.items():
        for n in range(SEARCHED):
            values = [100 * each[n] for each in means]
            print(f"  {name} after {n + 1}: {statistics.fmean(values):.3f} {max(values):.2f}")
    for n in (0, 3, 7, 11):
        value, low, high = ratio([each[n] for each in found["common"]], [each[n] for each in found["advised"]])
        print(f"  common over advised after {n + 1}: {value:.2f} ({low:.2f}-{high:.2f})")


def steps_left_out(tasks: Sequence[Task]) -> None:
    """Each length of training of the embedded model in turn."""
    for task in tasks:
        grid = Grid.of(task) if any(run.alpha == ALPHA for run in task.runs) else None
        if task.facts.root != "smollm" or grid is None or len(grid.excess) < 4:
            continue
        for what, rest in {
            "its other lengths known": [t for t in tasks if t is not task],
            "no length of it known": [t for t in tasks if t.facts.root != "smollm"],
        }.items():
            chosen = rates(table(rest), grid)
            shown = "; ".join(f"{name} {rate:.2g}: {100 * grid.between(rate):.2f} %" for name, rate in chosen.items())
            low, high, true = interval(table(rest), grid, grid.nearest(chosen["shipped"]))
            print(
                f"\n{task.facts.steps} steps left out, {what}: {shown}; gain {low:.2%} to {high:.2%}, true {true:.2%}"
            )


def more_passes() -> None:
    """The interval where the rows are seen more often than in any known task, and as it was without regard to that."""
    found = dict[str, Grid]()
    for name in LONG:
        head, *lines = (json.loads(line) for line in (CURVES / f"{name}-252.jsonl").read_text().splitlines())
        whole = [
            line for line in lines if line["ending"] == "complete" and (line["schedule"], line["seed"]) == ("wsd", 0)
        ]
        facts = Facts("smollm2", 576, head["rows"]["train"], head["steps"], head["training"]["batch_size"])
        for kind, at in {"last": (-1,), "best": (6, 8, -1)}.items():  # at 30, 60 and 100 % of the steps
            losses = {_scaled(line["hyperparameters"]): min(line["losses"][k] for k in at) for line in whole}
            task = Task(facts, "", name, "", "", (), {})
            found[f"{name}, {kind}"] = Grid(task, {each: x / min(losses.values()) - 1 for each, x in losses.items()})
    for task in runs.read(CURVES / "passes.jsonl"):
        found[f"{task.facts.rows} rows, best"] = Grid.of(task)
    for name, grid in found.items():
        facts = grid.task.facts
        assert facts.rows is not None
        start = advice.advice(advice.shipped(), facts).start
        rate, rank = start["learning_rate"], start["rank"]
        near = min(grid.excess, key=lambda at: 4 * abs(math.log10(at[0] / rate)) + abs(math.log2(at[1] / rank)))
        unaware = Grid(replace(grid.task, facts=replace(facts, rows=None)), grid.excess)
        low, high, true = interval(advice.shipped(), grid, near)
        was = interval(advice.shipped(), unaware, near)[1]
        passes = facts.steps * facts.batch_size / facts.rows
        print(
            f"{name}, {passes:.0f} passes: gain {low:.2%} to {high:.2%}, without widening to {was:.2%}, true {true:.2%}"
        )


def _scaled(point: Mapping[str, Any]) -> Place:
    """The place with alpha 32 that has the point's product of rate and alpha."""
    return point["learning_rate"] * point["alpha"] / ALPHA, point["rank"]


if __name__ == "__main__":
    main()
