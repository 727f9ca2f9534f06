"""Which keys of the training pay: pairs of trainings of the embedded model that differ by one key, on two tasks.

Points are those of `setting.py` whose rank is 4 to 16 and whose product of learning rate and alpha is .015 to .035: the
better part of `recommended`. Each is trained as it is and with each key of `KEYS` changed, on the same rows in the same
order, by the packed trainer, at three rates: the point's, twice and four times as much. The best one of a key is
compared with the best one of the default's, so that a key does not pay by learning faster at a rate that was too low.
LoRA+ has these rates for B, and slower ones for A: to first order the adapter's product then moves alike. Muon's rates
are four times AdamW's, which was the ratio of the best ones for rank 16 and alpha 32 on `embedded`.

`--report` prints for each task and key: the mean over points of the paired difference of final validation loss (below
0: the key pays), its 95 % interval (Student's t over points), at how many points it is lower, and the tokens of a
training as a share of the default's. `another seed` is no key: its interval shows what the seed alone does. The seed
deviation is that of the best one of three trainings.

What it does not say: anything of larger models or longer trainings (a training has 24 steps of 2 rows), nor of other
rows, since all points of a task have the same ones. It may be killed at any time and started again; a pack that was not
finished is made again.

    python benchmarks/curves/what_pays.py [--data ../shared/data] [--table benchmarks/curves/what-pays.jsonl]
        [--points 6]
    python benchmarks/curves/what_pays.py --report
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import make
import make_short
import setting
import tasks
from scipy.stats import t as student

from meshtune.config import presets
from meshtune.config.sections import TrainingConfig
from meshtune.data.build import PreparedData
from meshtune.data.embedded import cache_folder
from meshtune.data.store import Rows
from meshtune.training.loss import RowSet

TABLE = Path(__file__).with_name("what-pays.jsonl")
FOLDER = cache_folder() / "benchmark-what-pays"
TASKS = ("embedded", "dolly-hh")
ROWS, VALIDATION = 80, 32  # rows in all, those of validation
RANKS, PRODUCTS = (2, 4), (0.015, 0.035)  # powers of two; rate x alpha
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SECTION = {"epochs": 1, "batch_size": 2, "lr_scheduler": "cosine", "precision": "bfloat16"}
RATES = (1, 2, 4)  # factors of a point's rate
PACK = 8  # trainings at once


@dataclass(frozen=True)
class Key:
    """One change. `slower`: what its rates are divided by; below 1 they are higher."""

    name: str
    changed: dict[str, Any] = field(default_factory=dict)
    slower: float = 1
    seed: int = 0


DEFAULT = Key("default")
SEED = Key("another seed", seed=1)
KEYS = (
    SEED,
    Key("lora_plus_ratio 4", {"lora_plus_ratio": 4}, slower=4),
    Key("lora_plus_ratio 16", {"lora_plus_ratio": 16}, slower=16),
    Key("neftune_alpha 5", {"neftune_alpha": 5}),
    Key("weight_decay .1", {"weight_decay": 0.1}),
    Key("optimizer adamw_8bit", {"optimizer": "adamw_8bit"}),
    Key("optimizer muon", {"optimizer": "muon"}, slower=1 / 4),
    Key("batch_size half", {"batch_size": 1}),
    Key("batch_size double", {"batch_size": 4}),
    Key("target_modules attention", {"target_modules": ATTENTION}),
    Key("epochs 2", {"epochs": 2}),
)


@dataclass(frozen=True)
class Pair:
    """Final losses with a key changed and by default at one point; `tokens`: of a training, as a share."""

    changed: float
    default: float
    tokens: float

    @property
    def difference(self) -> float:
        """Below 0: the key pays."""
        return self.changed - self.default


def points() -> list[int]:
    """Numbers of the better part's points, in their order."""
    low, high = PRODUCTS
    each = enumerate(setting.points())
    return [n for n, x in each if RANKS[0] <= x["rank_log2"] <= RANKS[1] and low <= x["step"] <= high]


def section(key: Key) -> TrainingConfig:
    """How a training of the key is made."""
    return TrainingConfig.model_validate({**SECTION, "gradient_checkpointing": False, **key.changed})


def header(prepared: dict[str, PreparedData]) -> dict[str, Any]:
    """How the table is made."""
    return {
        "model": "embedded (SmolLM2-135M-Instruct)",
        "data": {name: data.ref.fingerprint for name, data in prepared.items()},
        "rows": {"train": ROWS - VALIDATION, "validation": VALIDATION},
        "training": section(DEFAULT).model_dump(mode="json", include=setting.DESCRIBED),
        "sobol_seed": setting.SOBOL_SEED,
        "measured_in": "bfloat16",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def train(base: Any, rows: Sequence[RowSet], point: int, pack: Sequence[tuple[Key, float]]) -> list[dict[str, Any]]:
    """Keys at factors of a point's rate: a line of the table each. The loss is null where one diverged."""
    from meshtune.training.packed.trainer import train_pack
    from meshtune.training.recipe import recipe
    from meshtune.training.steps import Diverged, Step

    at = presets.recommended().decode(setting.parameters(point))
    rates = [at["learning_rate"] * factor / key.slower for key, factor in pack]
    recipes = [
        recipe(section(key), {**at, "learning_rate": rate}, key.seed)
        for (key, _), rate in zip(pack, rates, strict=True)
    ]
    start = {"loss": None, "tokens": 0}
    lines: list[dict[str, Any]] = [{"key": key.name, "factor": factor, **start} for key, factor in pack]
    for number, event in train_pack(base, *rows, recipes, at="last"):
        if isinstance(event, Step):
            lines[number] |= {"steps": event.step, "tokens": event.tokens}
            if event.validation_loss is not None:
                lines[number]["loss"] = round(event.validation_loss, 5)
        elif isinstance(event, Diverged):
            lines[number]["loss"] = None
    return lines


def make_table(table: Path, data: Path, count: int) -> None:
    """What is not in the table yet: a point of each task in turn."""
    import torch

    from meshtune.training.models import load_model
    from meshtune.training.packed.base import PackedBase

    torch.set_num_threads(1)
    PackedBase.row_losses = make_short.rounded  # type: ignore[method-assign]
    prepared = {name: tasks.rows(tasks.TASKS[name], FOLDER, data, ROWS, VALIDATION) for name in TASKS}
    lines = setting.lines(table, header(prepared), "name another with --table")
    done = {(line["task"], line["point"], line["key"], line["factor"]) for line in lines}
    base = load_model(setting.MODEL, "cpu")
    for point, task in itertools.product(points()[:count], TASKS):
        each = itertools.product((DEFAULT, *KEYS), RATES)
        left = [(key, factor) for key, factor in each if (task, point, key.name, factor) not in done]
        sides = Rows.open(prepared[task].ref, "train"), Rows.open(prepared[task].ref, "validation")
        for pack in (left[at : at + PACK] for at in range(0, len(left), PACK)):
            begun = time.process_time()
            made = [{"task": task, "point": point, **line} for line in train(base, sides, point, pack)]
            with table.open("a", encoding="utf-8") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in made))
            took = time.process_time() - begun
            print(f"{time.strftime('%X')} {task} {point}: {len(pack)} in {took:.0f} s", file=sys.stderr, flush=True)


def pairs_of(lines: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str], Pair]:
    """By task, point and key, where all trainings of both are there. One that diverged is worse than any."""
    found: dict[tuple[str, int, str], dict[float, dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["task"], line["point"], line["key"]), {})[line["factor"]] = line
    whole = {place: list(own.values()) for place, own in found.items() if own.keys() == {*RATES}}
    pairs = {}
    for (task, point, key), changed in whole.items():
        default = whole.get((task, point, DEFAULT.name))
        if key != DEFAULT.name and default is not None:
            tokens = [max(line["tokens"] for line in side) for side in (changed, default)]
            pairs[task, point, key] = Pair(_best(changed), _best(default), tokens[0] / (tokens[1] or math.nan))
    return pairs


def _best(lines: Sequence[dict[str, Any]]) -> float:
    return min(math.inf if line["loss"] is None else line["loss"] for line in lines)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by Student's t; not a number where there is none."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return mean, math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def report(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table as Markdown, and for each task a sentence on the seed."""
    pairs = pairs_of(lines)
    yield "| key | task | loss less default's | 95 % interval | lower at | tokens |"
    yield "|---|---|---|---|---|---|"
    for key, task in itertools.product(KEYS, TASKS):
        if own := [pair for (at, _, name), pair in pairs.items() if (at, name) == (task, key.name)]:
            mean, low, high = interval([pair.difference for pair in own])
            lower = sum(pair.difference < 0 for pair in own)
            spread = "-" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"
            cells = f"{mean:+.4f} | {spread} | {lower} of {len(own)} | {own[0].tokens:.2f}"
            yield f"| {key.name} | {task} | {cells} |"
    for task in TASKS:
        if own := [pair for (at, _, name), pair in pairs.items() if (at, name) == (task, SEED.name)]:
            squares = statistics.fmean(pair.difference**2 for pair in own)
            default, deviation = statistics.fmean(pair.default for pair in own), math.sqrt(squares / 2)
            yield f"\n{task}: the default's loss is {default:.3f} in the mean; seed deviation {deviation:.4f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=make.DATA, help="folder of the task's instruction files")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--points", type=int, default=6, help="of each task")
    parser.add_argument("--report", action="store_true", help="train nothing: print what the table says")
    arguments = parser.parse_args()
    if not arguments.report:
        make_table(arguments.table, arguments.data, arguments.points)
    _, *lines = map(json.loads, arguments.table.read_text(encoding="utf-8").splitlines())
    print(*report(lines), sep="\n")


if __name__ == "__main__":
    main()
