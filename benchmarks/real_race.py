"""A race with real trainings: batch-gp, MADS, TPE and random search, judged by rows that no search saw.

Each side is a study of 24 trials in blocks of 4, three seeds each. The setting is that of the stored learning curves
(curves/setting.py: the embedded model, 36 training rows, batches of 2), cheaper by half: one epoch of 18 steps. Losses
are measured in float32 on 16 validation rows. A seed decides rows, adapters and proposals; the four sides of a seed
share the rows, the first trial (the baseline) and the order of batches. What is compared is the loss on 64 test rows of
the *recommended* point, and of the best.

Prints one JSON line for each other side: mean test loss over seeds of the recommended point, and theirs / ours (above
1: ours is better) with the least and the largest of the seeds; and on standard error a table with every seed.

    python benchmarks/real_race.py FOLDER [--seeds 3] [--trials 24] [--sides batch-gp mads tpe random] [--studies 2]

Each study is one of `meshtune tune`, FOLDER/SIDE-SEED. Killed and started again, the race goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import meshtune

sys.path.insert(0, str(Path(__file__).with_name("curves")))
import setting

SIDES = ("batch-gp", "mads", "tpe", "random")
BLOCK, EPOCHS, TEST = 4, 1, 64
MODELS = ("untuned", "baseline", "best", "recommended")


def values(folder: Path, side: str, seed: int, trials: int) -> dict[str, Any]:
    """The study, as its YAML would say it."""
    return {
        "model": setting.MODEL.name,
        "data": {
            "sources": setting.sources(folder),
            "mixture": "cap",
            "rows": setting.ROWS + TEST,
            "validation": setting.VALIDATION,
            "test": TEST,
            "max_length": setting.MAX_LENGTH,
        },
        "training": setting.described() | {"epochs": EPOCHS, "trainer": "packed", "keep_adapters": trials},
        "sampler": {"name": side, "block_size": BLOCK},
        "budget": {"trials": trials},
        "worker": {"name": "local", "processes": 1, "threads": 1, "pack": BLOCK},
        "generation": {"rows": 0},
        "seed": seed,
    }


def run(folder: Path, side: str, seed: int, trials: int) -> None:
    """Run or continue a study to its end."""
    meshtune.tune(
        values(folder / "rows", side, seed, trials), folder=folder / f"{side}-{seed}", trials=trials, progress=False
    )
    print(f"{time.strftime('%H:%M:%S')} {side}, seed {seed}: {trials} trials", file=sys.stderr, flush=True)


def found(folder: Path) -> dict[str, Any]:
    """Of a finished study: test losses by model, validation losses, trials and points."""
    status = meshtune.load(folder).status()
    return {model: status[model] for model in MODELS} | {"complete": status["trials"]["complete"]}


def row(side: str, seed: int, of: Mapping[str, Any]) -> str:
    """Of the table."""
    point = of["recommended"]["hyperparameters"]
    cells = [side, str(seed), f"{of['best']['loss']:.3f}"]
    cells += [f"{of[model]['test_loss']:.3f}" for model in MODELS]
    cells.append(f"{point['rank']}, {point['alpha']:.3g}, {point['dropout']:g}, {point['learning_rate']:.1e}")
    return f"| {' | '.join(cells)} |"


def lines(by_side: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The first side against each other one."""
    ours, *others = by_side
    made = []
    for model in ("recommended", "best"):
        losses = {side: [of[model]["test_loss"] for of in runs] for side, runs in by_side.items()}
        for side in others:
            ratios = [theirs / our for our, theirs in zip(losses[ours], losses[side], strict=True)]
            made.append(
                {
                    "name": "real_race",
                    "ours": round(statistics.mean(losses[ours]), 4),
                    "theirs": round(statistics.mean(losses[side]), 4),
                    "ratio": round(statistics.mean(losses[side]) / statistics.mean(losses[ours]), 4),
                    "low": round(min(ratios), 4),
                    "high": round(max(ratios), 4),
                    "setting": f"test loss of the {model} point, {ours} against {side}, {len(ratios)} seeds",
                }
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the studies are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="the first is ours")
    parser.add_argument("--studies", type=int, default=2, help="that run at once, on one thread each")
    arguments = parser.parse_args()
    folder, sides, seeds = arguments.folder.absolute(), arguments.sides, range(arguments.seeds)
    setting.sources(folder / "rows")
    with ThreadPoolExecutor(arguments.studies) as pool:
        jobs = [pool.submit(run, folder, side, seed, arguments.trials) for seed in seeds for side in sides]
        for job in jobs:
            job.result()
    results = {side: [found(folder / f"{side}-{seed}") for seed in seeds] for side in sides}
    titles = ["side", "seed", "best, validation", *(f"{model}, test" for model in MODELS)]
    titles.append("recommended: rank, alpha, dropout, rate")
    print(
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(row(side, seed, results[side][seed]) for seed in seeds for side in sides),
        sep="\n",
        file=sys.stderr,
    )
    for line in lines(results):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
