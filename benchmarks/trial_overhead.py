"""What the loop adds to a trial beyond its evaluation, against bare Optuna ask/tell on the same kind of storage.

Both sides run over SQLite files on the same disk with the same sampler and space and an evaluation that takes no time,
interleaved trial by trial, at 10 and at 300 recorded trials. Samplers that Optuna lacks run alone, `batch-gp` to 1,000.
Prints one JSON line a setting: seconds a trial (medians), and the ratio theirs / ours (above 1: ours is faster) with
its spread over repeats.

    python benchmarks/trial_overhead.py [--repeats 5] [--samplers random tpe mads batch-gp] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import optuna

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.plan.budget import Budget
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.samplers.build import build
from meshtune.study.loop import StudyEvent, TrialFinished, run
from meshtune.trial import Ending, Event, Outcome, Request

TIMED = 10  # trials timed at each size
OTHERS = {"random": "random", "tpe": "tpe", "mads": None, "batch-gp": None}  # Optuna's, where it has the sampler
SIZES = {"batch-gp": (10, 100, 300, 1000)}


class Instant:
    """A worker whose evaluations take no time: a made-up valley over the decoded hyperparameters."""

    def __init__(self) -> None:
        self._done: list[Event] = []

    def free(self) -> int:
        return 1

    def submit(self, requests: Iterable[Request]) -> None:
        self._done += [
            Outcome(r.trial, r.attempt, Ending.COMPLETE, loss=valley(r.hyperparameters), losses=(2.0, 1.9))
            for r in requests
        ]

    def events(self, timeout: float) -> list[Event]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Nothing is held."""


def valley(hyperparameters: object) -> float:
    values = dict(hyperparameters)  # type: ignore[call-overload]
    step = math.log10(values["learning_rate"] * values["alpha"])
    return float(1.8 + (step + 1.4) ** 2 / 10 + (math.log2(values["rank"]) - 6) ** 2 / 500)


def ours(folder: Path, sampler: str) -> Iterator[float]:
    """Seconds of each trial of meshtune's loop."""
    space = presets.recommended()
    record = Record(f"sqlite:///{folder / 'ours.db'}", "ours", space, fixed={})
    start = presets.RECOMMENDED_BASELINE
    record.enqueue(start, origin="baseline", seed=0)
    made = build(
        SamplerConfig(name=sampler),
        distributions(space),
        x0=space.encode(start),
        block_size=1,
        seed=0,  # type: ignore[arg-type]
    )
    events: Iterator[StudyEvent] = run(record, made, Instant(), Budget(trials=10_000), seed=0)
    begun = time.perf_counter()
    for event in events:
        if isinstance(event, TrialFinished):
            now = time.perf_counter()
            yield now - begun
            begun = time.perf_counter()


def theirs(folder: Path, sampler: str) -> Iterator[float]:
    """Seconds of each trial of bare ask/tell, with the losses reported as users do."""
    space = presets.recommended()
    named = {"tpe": optuna.samplers.TPESampler(seed=0), "random": optuna.samplers.RandomSampler(seed=0)}
    study = optuna.create_study(storage=f"sqlite:///{folder / 'theirs.db'}", sampler=named[sampler])
    while True:
        begun = time.perf_counter()
        trial = study.ask(distributions(space))
        hyperparameters = space.decode(trial.params)
        for epoch, loss in enumerate((2.0, 1.9), start=1):
            trial.report(loss, epoch)
        trial.set_user_attr("hyperparameters", hyperparameters)
        study.tell(trial, valley(hyperparameters))
        yield time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samplers", nargs="+", choices=OTHERS, default=list(OTHERS))
    parser.add_argument("--quick", action="store_true", help="one repeat, at 10 and 40 trials")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    repeats = 1 if arguments.quick else arguments.repeats
    for name in arguments.samplers:
        other, sizes = OTHERS[name], (10, 40) if arguments.quick else SIZES.get(name, (10, 300))
        seen: dict[int, list[tuple[float, float | None]]] = {size: [] for size in sizes}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                left = ours(Path(folder), name)
                right = theirs(Path(folder), other) if other else None
                a: list[float] = []
                b: list[float] = []
                for _ in range(sizes[-1] + TIMED):
                    a.append(next(left))
                    if right is not None:
                        b.append(next(right))
                left.close()  # type: ignore[attr-defined]
                for size in sizes:
                    part = slice(size, size + TIMED)
                    seen[size].append((statistics.median(a[part]), statistics.median(b[part]) if b else None))
        for size in sizes:
            mine = [m for m, _ in seen[size]]
            ratios = [t / m for m, t in seen[size] if t is not None]
            line = {
                "name": "trial_overhead",
                "ours": round(statistics.median(mine), 5),
                "theirs": round(statistics.median(t for _, t in seen[size] if t is not None), 5) if ratios else None,
                "ratio": round(statistics.median(ratios), 3) if ratios else None,
                "low": round(min(ratios), 3) if ratios else None,
                "high": round(max(ratios), 3) if ratios else None,
                "setting": f"{name}, at {size} trials, SQLite, seconds a trial",
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
