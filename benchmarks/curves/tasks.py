"""The tasks of the long tables: their rows, their training, which points are trained how, and where they are measured.

Three tasks over the embedded model, 252 steps each (three epochs of 168 rows, two rows a step), rows short so that a
training takes a minute or two of one core:

- `embedded`: the two sources of `model: embedded`, which have no licence but Python's own.
- `alpaca-libre`: instructions and answers of alpaca-libre (CC0).
- `dolly-hh`: prompts and answers of Dolly and HH-RLHF (CC BY-SA 3.0), the instruction taken out of its Alpaca prompt.

Rows of the last two come from a folder with `instructions/alpaca_libre_tasks_v{1,2}.jsonl` and
`instructions/dolly_hhrlhf_train_small.jsonl`; the repository has no row of them. Each row is its prompt, a line break
and its answer, without a template. The points are those of `setting.py`, so that a number is the same point in every
table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import setting

from meshtune.config.sections import DataConfig, TrainingConfig
from meshtune.data import embedded
from meshtune.data.build import PreparedData, prepare
from meshtune.system import whole_file

ROWS, VALIDATION, DATA_SEED = 188, 20, 0  # rows in all, those of validation
POINTS, BOTH_SEEDS, COSINE, COOLED = 40, 10, 15, 12  # of each task: in all; with two seeds; also with cosine; cooled
SHARES = (0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9, 1.0)  # of the steps, where a curve is measured
COOL_AT = (0.1, 0.2, 0.4)  # where a cooling branches off; at 0.8 the training itself begins to cool
COOLING = 0.25  # steps of a cooling, as a share of those before it: it ends as a training planned for 1.25 times them
SPREADS = (4, 8, 16, 32)  # of running averages, compared where a cooling branches off
SPREAD = 8  # of the one that is measured everywhere
Training = tuple[str, int, int]  # schedule, point, seed


@dataclass(frozen=True)
class Task:
    """One task. `pairs`: its prompts and answers from a folder; `longest`: tokens of a row at most."""

    name: str
    pairs: Callable[[Path], Iterator[tuple[str, str]]]
    longest: int


def _embedded(_: Path) -> Iterator[tuple[str, str]]:
    for name in setting.SOURCES:
        for row in embedded.rows(name):
            yield f"{row.context}\n", row.response


def _alpaca_libre(folder: Path) -> Iterator[tuple[str, str]]:
    for version in (1, 2):
        for row in _lines(folder / "instructions" / f"alpaca_libre_tasks_v{version}.jsonl"):
            if isinstance(output := row.get("output"), str) and output.strip():
                yield "\n".join(filter(None, (row["instruction"], row["input"], " "))).rstrip(" "), output


def _dolly_hh(folder: Path) -> Iterator[tuple[str, str]]:
    for row in _lines(folder / "instructions" / "dolly_hhrlhf_train_small.jsonl"):
        asked = row["prompt"].split("### Instruction:\n", 1)[1].rsplit("\n\n### Response:", 1)[0]
        yield f"{asked}\n", row["response"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines; what is damaged is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


TASKS = {
    task.name: task
    for task in (
        Task("embedded", _embedded, 24),
        Task("alpaca-libre", _alpaca_libre, 24),
        Task("dolly-hh", _dolly_hh, 40),
    )
}


def training(schedule: str) -> TrainingConfig:
    """How a task is trained."""
    return TrainingConfig.model_validate(
        {
            "epochs": 3,
            "batch_size": 2,
            "lr_scheduler": schedule,
            "precision": "bfloat16",
            "gradient_checkpointing": False,
        }
    )


def rows(task: Task, folder: Path, data: Path, count: int = ROWS, validation: int = VALIDATION) -> PreparedData:
    """The prepared rows of a task, so many in all, made or found in a folder of its own under `folder`."""
    own = folder / task.name
    path = own / "pairs.jsonl"
    if not path.exists():
        own.mkdir(parents=True, exist_ok=True)
        pairs = [{"prompt": prompt, "completion": answer} for prompt, answer in task.pairs(data)]
        whole_file.write(path, "".join(f"{json.dumps(pair)}\n" for pair in pairs))
    config = DataConfig.model_validate(
        {
            "sources": [{"path": str(path), "format": "prompt-completion"}],
            "rows": count,
            "validation": validation,
            "test": 0,
            "max_length": task.longest,
        }
    )
    return prepare(config, setting.MODEL, DATA_SEED, own / "rows")


def packs(size: int) -> Iterator[list[Training]]:
    """All trainings of a task in packs of one schedule and one seed, the most useful first."""
    kinds = (("wsd", POINTS, 0), ("cosine", COSINE, 0), ("wsd", BOTH_SEEDS, 1))
    for schedule, points, seed in kinds:
        trainings = [(schedule, point, seed) for point in (setting.BASELINE, *range(points))]
        yield from (trainings[at : at + size] for at in range(0, len(trainings), size))


def cooled(training: Training) -> bool:
    """Whether coolings branch off from a training."""
    schedule, point, seed = training
    return schedule == "wsd" and seed == 0 and point < COOLED
