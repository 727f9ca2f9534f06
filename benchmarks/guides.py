"""What guiding quantities cost beside a trial, and whether perplexity tells a damaged adapter from a good one.

Trials of the embedded model on its own data, one thread, alone: at the recommended baseline's point, and at 50 times
its learning rate. After each, perplexity of general text and, with --data, MMLU on so many items are measured as in a
study. One JSON line a quantity: `ours` is the seconds that it takes, `theirs` those of a trial without it, `ratio` is
theirs / ours, with its spread over the trials. The values of untuned and trials go to standard error.

    python benchmarks/guides.py [--data DIR] [--rows 400] [--items 40] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from meshtune.config.sections import DataConfig, ModelConfig, SourceConfig, TrainingConfig
from meshtune.data.build import prepare
from meshtune.objectives.answers import Answering
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.objectives.measurements import MeasurementSpec
from meshtune.objectives.measuring import Measurer
from meshtune.training import machine
from meshtune.training.models import load_model
from meshtune.trial import Outcome, Request

POINT = {"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": 2e-4}
MODEL = ModelConfig(name="embedded")


def trained(folder: Path, rows: int, repeats: int) -> tuple[LoraSpec, list[Outcome]]:
    """A study's spec, and trials at the point, the last with a rate that ruins it."""
    sources = (
        SourceConfig(embedded="python-stdlib-describe", share=0.7),
        SourceConfig(embedded="python-stdlib-signature", share=0.3),
    )
    config = DataConfig(sources=sources, mixture="cap", rows=rows, validation=0.1, test=0)
    data = prepare(config, MODEL, 0, folder / "data").ref
    spec = LoraSpec(model=MODEL, training=TrainingConfig(), data=data, at="best", folder=str(folder))
    points = [POINT] * repeats + [{**POINT, "learning_rate": 50 * POINT["learning_rate"]}]
    objective = LoraObjective(spec, "cpu", 1)
    found = []
    for number, point in enumerate(points):
        found += [e for e in objective.evaluate([Request(number, point, 0)]) if isinstance(e, Outcome)]
        say(f"trial {number}: learning rate {point['learning_rate']:g}, loss {found[-1].loss}")
    return spec, [trial for trial in found if trial.adapter is not None]


def measured(spec: LoraSpec, guides: MeasurementSpec, trials: list[Outcome]) -> list[float]:
    """Seconds for each trial."""
    folder = Path(spec.folder) / guides.quantities[0]
    folder.mkdir()
    (folder / "adapters").symlink_to(Path(spec.folder) / "adapters")
    base = load_model(spec.model, "cpu")
    guiding = Measurer(guides, base, Answering(spec.model, spec.data, {}, 0, 1), folder)
    say(f"untuned: {guiding.measure('untuned', None, lambda: None)}")
    seconds = []
    for trial in trials:
        begun = time.perf_counter()
        values = guiding.measure(str(trial.trial), trial.adapter, lambda: None)
        seconds.append(time.perf_counter() - begun)
        say(f"trial {trial.trial}: {values} in {seconds[-1]:.1f} s")
    return seconds


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    machine.use_threads(1)
    asked = [MeasurementSpec(quantities=("perplexity",))]
    if arguments.data is not None:
        data = str(arguments.data.absolute())
        asked.append(MeasurementSpec(quantities=("mmlu", "mmlu.gold"), benchmarks=data, limit=arguments.items))
    with tempfile.TemporaryDirectory() as folder:
        spec, trials = trained(Path(folder), arguments.rows, arguments.repeats)
        for guides in asked:
            seconds = measured(spec, guides, trials)
            ratios = [trial.seconds / took for trial, took in zip(trials, seconds, strict=True)]
            line = {
                "name": "guides",
                "ours": round(statistics.median(seconds), 2),
                "theirs": round(statistics.median(trial.seconds for trial in trials), 2),
                "ratio": round(statistics.median(ratios), 2),
                "low": round(min(ratios), 2),
                "high": round(max(ratios), 2),
                "setting": f"{guides.quantities[0]}; {arguments.rows} rows, 2 epochs"
                + (f"; {guides.limit} items" if guides.benchmark_names else "; 2,048 tokens"),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
