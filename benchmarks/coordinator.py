"""What the coordinator adds to a trial beyond its proposal and its evaluation, and how its memory grows.

Each side is a program of its own over its own study, on SQLite and on a PostgreSQL server that is started for it. They
take turns, ten trials each, so that whatever else the machine does hits both. The evaluation takes no time and points
are drawn at random. `ours` is the loop with its record, its leases and two losses a trial. `theirs` is bare Optuna, ask
and tell over the same kind of storage, which records the point and one value. Beside them: four programs that optimize
one study over Optuna's storage, and Ray Tune with OptunaSearch where `ray[tune]` is installed.

And what a decision at a rung takes once 100 trials were measured at 6 rungs: which of eight trials stop, whose state is
dropped, and who thaws; `theirs` is that of Optuna's MedianPruner for the same eight.

Prints one JSON line a setting: seconds a trial (medians of ten) and theirs / ours (above 1: ours is faster), with its
spread over the turns near that size. Memory: resident bytes of each side at 100, 500 and 1,000 trials.

    python benchmarks/coordinator.py [--trials 1000] [--repeats 3] [--alone | --decision]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.trial_overhead import Instant, valley
from meshtune.config import presets
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import SamplerConfig
from meshtune.plan.budget import Budget
from meshtune.record.distributions import distributions
from meshtune.record.lease import Lease
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.loop import TrialFinished, run
from meshtune.system.lease import lease
from meshtune.trial import Ending, Outcome, Rung
from tests.postgresql import postgresql

TURN = 10  # trials
NEAR = 50  # turns within so many trials of a size count for it
PROGRAMS, SHARED = 4, 100  # and the trials that they share


def ours(url: str, folder: Path) -> Iterator[None]:
    """Trials of the loop, each with its record."""
    space = presets.recommended()
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(lease(folder))
        fence = None
        if url.startswith("postgresql"):
            shared = Lease(url, "ours")
            stack.enter_context(shared.held())
            fence = shared.fence
        record = Record(url, "ours", space, fixed={}, fence=fence)
        searched: Any = distributions(space)
        config = SamplerConfig(name="random")
        made = build(config, searched, x0=space.encode(presets.RECOMMENDED_BASELINE), block_size=1, seed=0)
        events = run(record, made, Instant(), Budget(trials=10**6), seed=0, holding=held.check)
        yield from (None for event in events if isinstance(event, TrialFinished))


def theirs(url: str, folder: Path) -> Iterator[None]:
    """Trials of bare ask and tell."""
    space = presets.recommended()
    searched = distributions(space)
    study = optuna.create_study(study_name="theirs", storage=url, sampler=optuna.samplers.RandomSampler(seed=0))
    while True:
        trial = study.ask(searched)
        study.tell(trial, valley(space.decode(trial.params)))
        yield


def side(which: Callable[[str, Path], Iterator[None]], url: str, folder: Path) -> None:
    """Ten trials for each line of input; says seconds a trial, of a clock and of the processor, and resident bytes."""
    trials = which(url, folder)
    next(trials)  # what opens the study is no trial's
    print("ready", flush=True)
    for _ in sys.stdin:
        begun, busy = time.perf_counter(), time.process_time()
        for _ in range(TURN):
            next(trials)
        seconds, busy = (time.perf_counter() - begun) / TURN, (time.process_time() - busy) / TURN
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        print(json.dumps([seconds, busy, resident]), flush=True)


@contextlib.contextmanager
def program(name: str, url: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.coordinator", "--side", name, "--url", url, "--folder", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            answer(process)
            yield process
        finally:
            process.kill()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise SystemExit("a side ended: see its last words above")
    return line


def turn(process: subprocess.Popen[str]) -> list[float]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    said: list[float] = json.loads(answer(process))
    return said


def measure(kind: str, url: str, trials: int, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Lines of one repeat: both sides by turns, from an empty study on."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        urls = {name: url or f"sqlite:///{folder / name}.db" for name in ("ours", "theirs")}
        with program("ours", urls["ours"], folder) as left, program("theirs", urls["theirs"], folder) as right:
            seen = list[tuple[list[float], list[float]]]()
            while len(seen) * TURN < trials:
                seen.append((turn(left), turn(right)))
                if (size := len(seen) * TURN) in sizes:
                    at = seen[-min(NEAR // TURN, len(seen)) :]
                    yield {
                        "kind": kind,
                        "size": size,
                        "ours": [mine[0] for mine, _ in at],
                        "theirs": [other[0] for _, other in at],
                        "busy": [(mine[1], other[1]) for mine, other in at],
                        "memory": (at[-1][0][2], at[-1][1][2]),
                    }
                    mine, other = (statistics.median(pair[which][1] for pair in at) for which in (0, 1))
                    print(f"{kind}, {size} trials: processor {mine:.4f} and {other:.4f} s a trial", file=sys.stderr)


def four_programs(kind: str) -> float:
    """Seconds a trial of four programs that optimize one study."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "SQLite":
            return optimized_together(f"sqlite:///{folder}/four.db")
        with postgresql() as url:
            return optimized_together(url)


def optimized_together(url: str) -> float:
    optuna.create_study(study_name="four", storage=url)
    code = (
        "import optuna, sys; from benchmarks.coordinator import *; optuna.logging.set_verbosity(optuna.logging.ERROR)\n"
        "space = presets.recommended(); searched = distributions(space)\n"
        "sampler = optuna.samplers.RandomSampler()\n"
        "study = optuna.load_study(study_name='four', storage=sys.argv[1], sampler=sampler)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for _ in range(int(sys.argv[2])):\n"
        "    trial = study.ask(searched); study.tell(trial, valley(space.decode(trial.params)))\n"
    )
    command = [sys.executable, "-c", code, url, str(SHARED // PROGRAMS)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROGRAMS)]
    for process in running:
        answer(process)
    begun = time.perf_counter()
    for process in running:
        process.communicate("\n")
    return (time.perf_counter() - begun) / SHARED


def ray_tune(trials: int) -> float:
    """Seconds a trial of Ray Tune with OptunaSearch, one trial at a time. Raises ImportError without `ray[tune]`."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", num_cpus=2, include_dashboard=False)  # not what an earlier `ray start` left behind

    def objective(config: dict[str, float]) -> dict[str, float]:
        return {"loss": (config["x"] - 0.5) ** 2}

    search = OptunaSearch(metric="loss", mode="min")
    settings = tune.TuneConfig(
        search_alg=search, metric="loss", mode="min", num_samples=trials, max_concurrent_trials=1
    )
    begun = time.perf_counter()
    tune.Tuner(objective, param_space={"x": tune.uniform(0, 1)}, tune_config=settings).fit()
    return (time.perf_counter() - begun) / trials


def decisions(repeats: int, rule: Literal["default", "model"]) -> None:
    """Milliseconds of the decision upon eight trials at a rung, without writing it down; that of a model without the
    fit, which is made anew when a trial has ended.
    """
    rungs, tokens, losses = (0.1, 0.15, 0.3, 0.5, 0.7, 0.85), 1000, np.random.default_rng(0)
    config = EarlyStoppingConfig(rule=rule, rungs=rungs, freeze=True, disk=2 * 10**9)
    space = presets.recommended()
    rules = EarlyStopping(config, 1, tokens, space=space, state=lambda point, validated: 10**8)
    taken = dict[str, list[float]](ours=[], theirs=[])
    with tempfile.TemporaryDirectory() as folder:
        record = Record(f"sqlite:///{folder}/study.db", "study", space, fixed={})
        pruner = optuna.pruners.MedianPruner()
        study = optuna.create_study(storage=f"sqlite:///{folder}/theirs.db", pruner=pruner)
        start = presets.RECOMMENDED_BASELINE
        thresholds = rules.measured(start)
        for number in range(100 + repeats * 8):
            point = {**start, "learning_rate": 10 ** losses.uniform(-4.5, -3)}
            record.enqueue(point, origin="search", seed=0, thresholds=thresholds)
            trial = study.ask()
            end, reached = losses.normal(2, 0.1), 6 if number % 3 == 0 else 1 + number % 5
            curve = [(at, end + losses.normal(1 - at / tokens, 0.05)) for at, _ in thresholds]
            if number < 100:
                complete = reached == 6
                ending = Ending.COMPLETE if complete else Ending.STOPPED_EARLY
                whole = Outcome(number, 1, ending, end if complete else curve[reached - 1][1], tokens=tokens)
                record.tell(dataclasses.replace(whole, rungs=tuple(curve[:reached])), elapsed=0.0, value=end + 1)
                for at, loss in curve[:reached]:
                    trial.report(loss, at)
                study.tell(
                    trial, end if complete else None, state=TrialState.COMPLETE if complete else TrialState.PRUNED
                )
                continue
            trial.report(curve[0][1], curve[0][0])
            if number % 8 != 3:  # the last of eight
                continue
            asked = range(number - 7, number + 1)
            rung = Rung(asked[0], 1, tuple((each, thresholds[0][0], losses.normal(2.9, 0.1)) for each in asked))
            rules.promising(record)  # fits, since a trial has ended
            begun = time.process_time()
            decided = rules.decide(record, rung)
            spent = time.process_time() - begun
            record.decide(decided)
            begun = time.process_time()
            drops = rules.drops(record)
            rules.thaws(record, lambda number: True)
            taken["ours"].append(1000 * (spent + time.process_time() - begun))
            for each in drops:
                record.drop(each)
            begun = time.process_time()
            for _ in asked:
                trial.should_prune()
            taken["theirs"].append(1000 * (time.process_time() - begun))
    mine, other = (statistics.median(taken[which]) for which in ("ours", "theirs"))
    ratios = [b / a for a, b in zip(taken["ours"], taken["theirs"], strict=True)]
    printed(
        "coordinator_decision",
        mine,
        other,
        ratios,
        f"processor ms for eight trials at a rung, 100 trials at 6 rungs, by the rule {rule}",
    )


def printed(name: str, mine: float, other: float | None, ratios: list[float], setting: str) -> None:
    line = {"name": name, "ours": round(mine, 5), "theirs": None if other is None else round(other, 5)}
    low, high = (min(ratios), max(ratios)) if ratios else (None, None)
    for key, value in (("ratio", statistics.median(ratios) if ratios else None), ("low", low), ("high", high)):
        line[key] = None if value is None else round(value, 3)
    print(json.dumps(line | {"setting": setting}), flush=True)


def report(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Print the lines of both sides; our seconds a trial at the largest size, by kind."""
    found: dict[str, float] = {}
    for kind in ("SQLite", "PostgreSQL"):
        for size in sorted({row["size"] for row in rows}):
            here = [row for row in rows if (row["kind"], row["size"]) == (kind, size)]
            mine = [seconds for row in here for seconds in row["ours"]]
            other = [seconds for row in here for seconds in row["theirs"]]
            ratios = [statistics.median(row["theirs"]) / statistics.median(row["ours"]) for row in here]
            found[kind] = statistics.median(mine)
            setting = f"{kind}, at {size} trials, seconds a trial, against ask and tell"
            printed("coordinator", found[kind], statistics.median(other), ratios, setting)
            busy = [pair for row in here for pair in row["busy"]]
            ratios = [pair[1] / pair[0] for pair in busy]
            mine_busy, their_busy = (statistics.median(pair[which] for pair in busy) for which in (0, 1))
            printed(
                "coordinator_processor", mine_busy, their_busy, ratios, f"{setting}, of the coordinator's processor"
            )
            memory = [row["memory"] for row in here]
            ours_mb, theirs_mb = (statistics.median(pair[which] for pair in memory) / 2**20 for which in (0, 1))
            ratios = [pair[1] / pair[0] for pair in memory]
            printed("coordinator_memory", ours_mb, theirs_mb, ratios, f"{kind}, at {size} trials, resident MiB")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="the two sides only")
    parser.add_argument("--decision", action="store_true", help="what a decision at a rung takes only")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given.side:
        side({"ours": ours, "theirs": theirs}[given.side], given.url, given.folder)
        return
    decisions(10, "default")
    decisions(10, "model")
    if given.decision:
        return
    sizes = [size for size in (100, 500, 1000) if size <= given.trials] or [given.trials]
    rows = list[dict[str, Any]]()
    for _ in range(given.repeats):
        rows += measure("SQLite", "", given.trials, sizes)
        with postgresql() as url:
            rows += measure("PostgreSQL", url, given.trials, sizes)
    found = report(rows)
    if given.alone:
        return
    for kind in ("SQLite", "PostgreSQL"):
        seconds = [four_programs(kind) for _ in range(given.repeats)]
        ratios = [each / found[kind] for each in seconds]
        setting = f"{kind}, ours at {sizes[-1]} trials, four programs of Optuna over {SHARED}, seconds a trial"
        printed("coordinator_four", found[kind], statistics.median(seconds), ratios, setting)
    try:
        tune = ray_tune(20)
        setting = "Ray Tune with OptunaSearch, 20 trials, one at a time, its start included, seconds a trial"
        printed("coordinator_tune", found["SQLite"], tune, [tune / found["SQLite"]], setting)
    except ImportError as error:
        printed("coordinator_tune", found["SQLite"], None, [], f"Ray Tune was not measured: {error}")


if __name__ == "__main__":
    main()
