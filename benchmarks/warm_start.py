"""What known points are worth: a second round that starts from a first one, against the same sampler without it.

The surface is `examples/two_rounds/surface.py`: 50 points of MADS with ranks up to 128, then 100 with ranks up to 512
and 2 epochs, in blocks of 4. The first round has 2 epochs too, where losses compare, or 3 as in the paper. Prints one
JSON line a setting: mean loss of the best point above 0.953 (the lowest there is, less the noise), in thousandths, and
the ratio cold / warm (above 1: known points help) as geometric mean over seeds, with its quartiles.

    python benchmarks/warm_start.py [--seeds 20]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna

from meshtune.config import presets
from meshtune.config.sections import SamplerConfig
from meshtune.record.distributions import distributions
from meshtune.record.earlier_trials import EarlierTrials, earlier_in
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.build import build
from meshtune.space.space import Space
from meshtune.testing.samplers import search
from meshtune.trial import Ending, Outcome

FLOOR = 0.953
SIZES = (5, 20, 50, 100)
SETTINGS: tuple[tuple[Literal["mads", "tpe"], Literal["as_is", "shifted"]], ...] = (
    ("mads", "as_is"),
    ("mads", "shifted"),
    ("tpe", "as_is"),
)


def surface() -> Any:
    """The example's program as a module."""
    path = Path(__file__).parents[1] / "examples" / "two_rounds" / "surface.py"
    spec = importlib.util.spec_from_file_location("surface", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def searched(
    space: Space,
    epochs: int,
    seed: int,
    trials: int,
    sampler: Literal["mads", "tpe"],
    known: EarlierTrials = (),
    values: Literal["as_is", "shifted"] = "as_is",
) -> list[optuna.trial.FrozenTrial]:
    """The trials of one round, the first of which is the baseline."""
    program, over = surface(), distributions(space)
    start = space.encode(presets.TRIBES_BASELINE)
    made = build(
        SamplerConfig(name=sampler),
        over,
        x0=start,
        block_size=4,
        seed=seed,
        warm_start=known,
        warm_start_values=values,
    )

    def judge(_: int, params: Mapping[str, Any]) -> float:
        return float(program.loss(**space.decode(params), epochs=epochs, seed=seed))

    study = optuna.create_study()
    study.enqueue_trial(start)
    study.tell(study.ask(over), judge(0, start))
    search(study, made, over, trials, judge)
    made.close()
    return study.trials


def known_of(first: list[optuna.trial.FrozenTrial], there: Space, here: Space) -> EarlierTrials:
    """The first round's trials as the second one knows them."""
    recorded = []
    for trial in first:
        outcome = Outcome(trial.number, 1, Ending.COMPLETE, loss=trial.value)
        point = there.decode(trial.params)
        recorded.append(RecordedTrial(trial.number, trial.params, point, "search", 0, 0, 0, outcome=outcome))
    return earlier_in(here, recorded).trials


def regrets(trials: list[optuna.trial.FrozenTrial]) -> list[float]:
    """Of the best of the first 5, 20, .. trials."""
    return [min(t.value for t in trials[:size] if t.value is not None) - FLOOR for size in SIZES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    narrow, wide = presets.tribes2024(128), presets.tribes2024()
    cold = {name: [regrets(searched(wide, 2, seed, 100, name)) for seed in seeds] for name in ("mads", "tpe")}  # type: ignore[arg-type]
    for epochs in (2, 3):
        known = [known_of(searched(narrow, epochs, seed, 50, "mads"), narrow, wide) for seed in seeds]
        for name, values in SETTINGS:
            warm = [regrets(searched(wide, 2, seed, 100, name, known[seed], values)) for seed in seeds]
            for index, size in enumerate(SIZES):
                pairs = [(w[index], c[index]) for w, c in zip(warm, cold[name], strict=True)]
                ratios = [c / w for w, c in pairs]
                low, _, high = statistics.quantiles(ratios, n=4)
                line = {
                    "name": "warm_start",
                    "ours": round(1000 * statistics.mean(w for w, _ in pairs), 2),
                    "theirs": round(1000 * statistics.mean(c for _, c in pairs), 2),
                    "ratio": round(statistics.geometric_mean(ratios), 2),
                    "low": round(low, 2),
                    "high": round(high, 2),
                    "setting": f"{name} {values}, {epochs} epochs then 2, {size} trials, {len(seeds)} seeds",
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
