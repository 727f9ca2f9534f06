"""Optimizers on problems with a known minimum, made up, measured and from a table: batch-gp, MADS and others.

Each side asks for 100 points of a problem (benchmarks/problems.py) whose evaluations carry noise (drawn alike for every
side at the same evaluation of the same seed). After 20, 50 and 100 evaluations a point is taken, the one with the best
noisy value or the *recommended* one (`meshtune.samplers.recommend`, for all alike); its *regret* is its noise-free loss
above the minimum (at least 1e-4, a fiftieth of the noise, or what the problem says). Prints one JSON line a
setting: geometric means of both regrets over problems and seeds, their paired ratio theirs / ours (above 1: ours is
better), its 95 % interval by Student's t over the problems' mean log ratios (what to expect on another problem; of one
problem over its seeds), and how many of the pairs were won and lost; with `--surfaces` also one for each problem. The
same as Markdown tables goes to standard error, with two more columns: the median lead in nats, and the ratio where no
regret counts for less than half the noise, since below that no single training tells points apart.

- Spaces are what a user of Optuna writes: log2 of the rank (integer), dropout with a step, alpha an integer and the
  learning rate a real, both in log. Bare PyNomad gets the paper's: codes for rank and dropout, alpha an integer,
  log10 of the learning rate. MADS and bare PyNomad see choices by their number.
- One at a time; and in blocks of 8: eight trials are asked for, then told. Optuna's TPE has `constant_liar` there; bare
  PyNomad `MEGA_SEARCH_POLL` and `BB_MAX_BLOCK_SIZE 8`, and its shorter blocks cost it no waiting.
- With no start: bare PyNomad, which needs one, gets a random point (of the same space, seeded); batch-gp begins at the
  middle of the space, whose rank 32 is the best one of `product`, `bowl` and `seven`, though the rest of the middle is
  not: the side `batch-gp, drawn start` begins at that random point instead. With a sensible start
  (rank 16, alpha 32, dropout 0, learning rate 2e-4): ours and PyNomad as x0, the others as an enqueued trial.
- A diverged training is a failed trial for Optuna and a failed evaluation for PyNomad; a failed *first* point is told
  to PyNomad as 1e20, since it would end there.

Last come times at 300 recorded trials: milliseconds a proposal, and seconds that a fresh sampler needs to go on.

    python benchmarks/optimizers.py [--quick] [--ours batch-gp] [--sides mads "Optuna TPE" ..] [--seeds 20]
        [--first-seed 0] [--block 1|8] [--start yes|no] [--problems measured nmt ..] [--surfaces] [--results FILE]
        [--plot FILE.svg] [--no-times]

`--quick`: three problems and 20 seeds; otherwise all that can be made here and 50 seeds. With `--results` every run is
kept in a file as it ends, and a race that was cut short goes on from there; several files' lines may be joined. A side
whose library is not installed is left out, and this is said, unless the file has all its runs. `--plot` draws regret
against trials.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import optimizer_plot
import optimizer_tables
import optuna
from optimizer_sides import (
    BLOCK,
    BUDGETS,
    NEEDS,
    SIDES,
    Course,
    Make,
    Regrets,
    Setting,
    ask_and_tell,
    bare_run,
    close,
    gp,
    mads,
    missing,
)
from problems import PROBLEMS, SPACE, Problem, problem, there
from surfaces import QUICK

RECORDED, TIMED, REPEATS = 300, 20, 5  # of the times
POINTS = ("best", "recommended")


class Results:
    """Regrets of finished runs, in a file where one is given."""

    def __init__(self, file: Path | None):
        self._file, self._known = file, dict[str, Regrets]()
        if file is not None and file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                run, regrets = json.loads(line)
                self._known[json.dumps(run)] = regrets

    def has(self, side: str, name: str, seed: int, setting: Setting) -> bool:
        """Whether a run is known."""
        return json.dumps([side, name, seed, setting.block, setting.sensible]) in self._known

    def of(self, side: str, problem: Problem, seed: int, setting: Setting) -> Regrets:
        """Of one run, which is made if it is not known."""
        run = [side, problem.name, seed, setting.block, setting.sensible]
        key = json.dumps(run)
        if key not in self._known:
            self._known[key] = SIDES[side](problem, seed, setting)
            if self._file is not None:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([run, self._known[key]]) + "\n")
        return self._known[key]


def race(
    results: Results, sides: Sequence[str], setting: Setting, problems: Sequence[Problem], seeds: Sequence[int]
) -> dict[str, dict[str, np.ndarray]]:
    """Logarithms of the regrets by side and point taken, (seeds, problems, budgets); of the best also by `course`,
    after each trial. Sides run one after another.
    """
    runs = [[{side: results.of(side, each, seed, setting) for side in sides} for each in problems] for seed in seeds]
    return {
        side: {point: np.log([[run[side][point] for run in row] for row in runs]) for point in (*POINTS, "course")}
        for side in sides
    }


def entered(
    results: Results, sides: Sequence[str], names: Sequence[str], runs: Sequence[tuple[int, Setting]]
) -> list[str]:
    """The sides that can run here, or need not: all their runs are known. Says which are left out."""
    found = []
    for side in sides:
        if missing(side) and not all(results.has(side, name, *run) for name in names for run in runs):
            print(f"{side} is left out: {NEEDS[side]} is not installed here", file=sys.stderr)
        else:
            found.append(side)
    return found


def courses(logs: dict[str, dict[str, np.ndarray]], problems: Sequence[Problem]) -> optimizer_plot.Courses:
    """Regrets over what there is to gain, a run a row."""
    gains = np.array([each.worst - each.floor for each in problems])[:, None]
    return {side: (np.exp(of["course"]) / gains).reshape(-1, BUDGETS[-1]) for side, of in logs.items()}


def lines(
    logs: dict[str, dict[str, np.ndarray]], ours: str, setting: Setting, what: str
) -> Iterator[dict[str, object]]:
    """One line for each other side, point taken and budget."""
    for side in logs:
        for point in POINTS if side != ours else ():
            for column, budget in enumerate(BUDGETS):
                mine, other = (logs[name][point][..., column] for name in (ours, side))
                ratio, low, high = optimizer_tables.over_problems(other - mine)
                yield {
                    "name": "optimizers",
                    "ours": round(math.exp(mine.mean()), 5),
                    "theirs": round(math.exp(other.mean()), 5),
                    "ratio": round(ratio, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "won": int((mine < other).sum()),
                    "lost": int((mine > other).sum()),
                    "setting": f"regret of the {point} point after {budget}, {ours} against {side}, {setting}, {what}",
                }


def times(setting: Setting) -> Iterator[dict[str, object]]:
    """Milliseconds a proposal after 300 trials, beside bare PyNomad; seconds until a fresh sampler's first."""
    makers: dict[str, Make] = {"mads": mads, "batch-gp": gp}
    first = problem("product")
    waits = [bare_run(first, seed, setting, RECORDED + TIMED)["waits"] for seed in range(REPEATS)]
    for name, make in makers.items():
        mine: list[float] = []
        other: list[float] = []
        resumed: list[float] = []
        for seed in range(REPEATS):
            sampler = make(first, seed, setting)
            study, course = optuna.create_study(sampler=sampler), Course(first, seed)
            while len(course) < RECORDED:
                ask_and_tell(study, course, setting.block)
            recorded, begun = len(course), time.perf_counter()
            while len(course) < recorded + TIMED:
                ask_and_tell(study, course, setting.block)
            mine.append((time.perf_counter() - begun) / (len(course) - recorded))
            close(sampler)
            study.sampler = make(first, seed, setting)
            begun = time.perf_counter()
            study.ask(SPACE)
            resumed.append(time.perf_counter() - begun)
            close(study.sampler)
            blocks = round(TIMED * len(waits[seed]) / (RECORDED + TIMED))
            other.append(sum(waits[seed][-blocks:]) / TIMED)
        ratios = [theirs / our for our, theirs in zip(mine, other, strict=True)]
        yield {
            "name": "optimizers",
            "ours": round(1e3 * statistics.median(mine), 2),
            "theirs": round(1e3 * statistics.median(other), 2),
            "ratio": round(statistics.median(ratios), 3),
            "low": round(min(ratios), 3),
            "high": round(max(ratios), 3),
            "setting": f"milliseconds a proposal at {RECORDED} trials, {name} against bare PyNomad, {setting}",
        }
        yield {
            "name": "optimizers",
            "ours": round(statistics.median(resumed), 3),
            "theirs": None,
            "ratio": None,
            "low": round(min(resumed), 3),
            "high": round(max(resumed), 3),
            "setting": f"seconds to a fresh sampler's first point at {RECORDED} trials, {name}, {setting}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three problems and 20 seeds")
    parser.add_argument("--ours", choices=SIDES, default="batch-gp")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["mads", "Optuna TPE", "bare PyNomad", "random"])
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--block", type=int, help="only with so many at once (default: both 1 and 8)")
    parser.add_argument("--start", choices=("yes", "no"), help="only with a sensible start, or only with none")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, help="only these")
    parser.add_argument("--surfaces", action="store_true", help="a line for each problem, too")
    parser.add_argument("--plot", type=Path, help="draw the race here (SVG)")
    parser.add_argument("--results", type=Path, help="keep runs here (JSON lines)")
    parser.add_argument("--no-times", action="store_true", help="races only")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    names = arguments.problems or ([each.name for each in QUICK] if arguments.quick else list(PROBLEMS))
    if left_out := [name for name in names if not there(name)]:
        print(f"{', '.join(left_out)}: the tables are not here (MESHTUNE_TABLES)", file=sys.stderr)
    problems = [problem(name) for name in names if there(name)]
    count = arguments.seeds or (20 if arguments.quick else 50)
    seeds = range(arguments.first_seed, arguments.first_seed + count)
    blocks = (1, BLOCK) if arguments.block is None else (arguments.block,)
    starts = (False, True) if arguments.start is None else (arguments.start == "yes",)
    settings = [Setting(block, start) for start, block in product(starts, blocks)]
    results, asked = Results(arguments.results), list(dict.fromkeys([arguments.ours, *arguments.sides]))
    sides = entered(results, asked, [each.name for each in problems], list(product(seeds, settings)))
    panels, raced = {}, {}
    for setting in settings:
        logs = race(results, sides, setting, problems, seeds)
        panels[str(setting)], raced[str(setting)] = courses(logs, problems), logs
        for line in lines(logs, arguments.ours, setting, f"{len(problems)} problems x {len(seeds)}"):
            print(json.dumps(line), flush=True)
        for index, each in enumerate(problems if arguments.surfaces else ()):
            one = {side: {point: log[:, [index]] for point, log in of.items()} for side, of in logs.items()}
            for line in lines(one, arguments.ours, setting, f"{each.name} x {len(seeds)}"):
                print(json.dumps(line), flush=True)
    for point in POINTS:
        table = {title: {side: of[point] for side, of in logs.items()} for title, logs in raced.items()}
        print(f"\nRegret of the {point} point, {arguments.ours} over the others'\n", file=sys.stderr)
        rows = optimizer_tables.overall(table, arguments.ours, BUDGETS, np.array([each.quiet for each in problems]))
        print(*rows, sep="\n", file=sys.stderr)
        for side in sides if arguments.surfaces else ():
            if side != arguments.ours:
                rows = optimizer_tables.by_problem(table, arguments.ours, side, [each.name for each in problems])
                print("", *rows, sep="\n", file=sys.stderr)
    if arguments.plot is not None:
        note = (
            f"Median over {len(problems)} problems x {len(seeds)} seeds of the point with the best noisy value; bars:"
            " 95 % intervals of the median. Lower is better."
        )
        arguments.plot.write_text(optimizer_plot.svg(panels, note), encoding="utf-8")
    if not arguments.no_times:
        for block in blocks:
            for line in times(Setting(block, False)):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
