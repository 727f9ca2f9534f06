"""Early stopping in real searches: a small study without it and with a rule, interleaved, in one call.

The embedded model is trained on the short rows of `curves/embedded.jsonl`, in the quickstart's space from the advised
start, two processes at once: 36 steps with a cosine, as short as trainings get. Each seed (of rows, points and
trainings) has three pieces, as a user would run them: 20 trials without early stopping; 20 with the rule; and that
second study continued to at most 60 trials, within the tokens of the first.

A line compares two searches over seeds: `ours` and `theirs` are medians of tokens trained on, `ratio` the median of
theirs / ours, `low` and `high` the range. By seed, ours and theirs: `trials` proposed, `ended` at their end, and
`rungs` that were measured, each a forward pass over 16 rows, where a whole training takes 72 rows and two to three
times as long for each. `validation` and `test`: loss of the best by validation, ours less theirs.

What was trained stays in FOLDER, and a killed piece goes on:

    python -m benchmarks.stopping_live FOLDER [--rule model] [--seeds 0 3] [--trials 20] [--most 60]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meshtune
from benchmarks.curves import setting
from benchmarks.today import SPACE
from meshtune.system import whole_file

VALIDATION, TEST = 16, 64


def study(folder: Path, seed: int, rule: str, tokens: int | None) -> dict[str, Any]:
    """Of a seed, as its YAML says it."""
    return {
        "model": "embedded",
        "data": {
            "sources": setting.sources(folder / "rows"),
            "mixture": "cap",
            "rows": setting.ROWS + TEST,
            "validation": VALIDATION,
            "test": TEST,
            "max_length": setting.MAX_LENGTH,
        },
        "training": {"epochs": 2, "batch_size": 2},
        "space": SPACE,
        "baseline": "advised",
        "early_stopping": rule,
        "budget": {"tokens": tokens},
        "worker": {"processes": 2},
        "generation": {"rows": 0},
        "seed": seed,
    }


def searched(folder: Path, seed: int, rule: str, trials: int, tokens: int | None) -> dict[str, Any]:
    """One search, run or continued to so many trials, or tokens if given."""
    place = folder / f"seed-{seed}" / rule
    seen = place.with_name(f"{rule}-{trials}.json")
    if not seen.exists():
        values = study(folder, seed, rule, tokens)
        made = meshtune.tune(values, folder=place, trials=trials, progress=False)
        whole_file.write(seen, json.dumps(made.status()))
    status: dict[str, Any] = json.loads(seen.read_text(encoding="utf-8"))
    return {
        "trials": len(status["all"]),
        "ended": status["trials"]["complete"],
        "tokens": status["tokens"],
        "rungs": sum(len(trial["rungs"]) for trial in status["all"]),
        "validation": status["best"]["loss"],
        "test": status["best"]["test_loss"],
    }


def line(name: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Of each seed's (ours, theirs)."""
    ratios = [theirs["tokens"] / ours["tokens"] for ours, theirs in pairs]
    made: dict[str, Any] = {"name": name, "ours": statistics.median(ours["tokens"] for ours, _ in pairs)}
    made |= {"theirs": statistics.median(theirs["tokens"] for _, theirs in pairs)}
    made |= {"ratio": round(statistics.median(ratios), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2)}
    made |= {key: [[side[key] for side in pair] for pair in pairs] for key in ("trials", "ended", "rungs")}
    return made | {key: [round(ours[key] - theirs[key], 4) for ours, theirs in pairs] for key in ("validation", "test")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rule", default="model")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 3), metavar=("FIRST", "END"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--most", type=int, default=60)
    options = parser.parse_args()
    equal, spent = [], []
    for seed in range(*options.seeds):
        full = searched(options.folder, seed, "none", options.trials, None)
        stopped = searched(options.folder, seed, options.rule, options.trials, None)
        more = searched(options.folder, seed, options.rule, options.most, full["tokens"])
        equal.append((stopped, full))
        spent.append((more, full))
        for name, pairs in (("as many trials", equal), ("as many tokens", spent)):
            text = f"stopping_live: {options.rule} against none, {name}, {len(pairs)} seeds"
            print(json.dumps(line(text, pairs)), flush=True)


if __name__ == "__main__":
    main()
