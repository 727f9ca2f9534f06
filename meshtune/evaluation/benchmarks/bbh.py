"""BIG-Bench Hard (Suzgun et al. 2022, arXiv:2210.09261): 27 tasks, whose first 3 items are the shots of the others.

Prompts are those of Instruct-Eval's protocol: no task description, no chain of thought. Read from the published files
(`<task>.json` with `examples`), or from rows of the Hugging Face data set (`input`, `target`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshtune.data.sources import hub_rows
from meshtune.errors import Fault, InputError
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    Reader,
    Shots,
    decided_begins,
    guesses,
    judge_begins,
)

SHOTS = 3
HUB = "lukaemon/bbh"
FIELDS = ("input", "target")
# fmt: off
TASKS = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages",
    "formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects",
    "logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation",
    "multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table",
    "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks",
    "sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies",
    "word_sorting",
)
# fmt: on


def find(folder: Path, named: bool) -> Reader | None:
    """See `Benchmark`. In a folder that is not `named` so, what has neither a published task's name nor its fields is
    passed over.
    """
    json, parquet = sorted(folder.glob("*.json")), sorted(folder.glob("*/test-*.parquet"))
    for paths in ({path: path.stem for path in json}, {path: path.parent.name for path in parquet}):
        if any(task in TASKS for task in paths.values()):
            return functools.partial(_read, paths, folder, named)
    return None


def of_hub() -> Benchmark:
    """The benchmark of the Hugging Face hub. Raises InputError."""
    return from_tasks({task: [row for _, row in hub_rows(HUB, task, "test")] for task in TASKS}, HUB, [])


def _read(paths: Mapping[Path, str], folder: Path, alone: bool) -> Benchmark:
    tasks, faults = dict[str, list[Any]](), list[Fault]()
    for path, task in paths.items():
        wanted = alone or task in TASKS
        try:
            rows = _examples(path) if path.suffix == ".json" else [row for _, row in files.read_rows(path)]
        except InputError as error:
            faults += error.faults if wanted else ()
            continue
        if wanted or (rows and not files.texts(rows[0], FIELDS, path, None)):
            tasks.setdefault(task, []).extend(rows)
    return from_tasks(tasks, folder, faults)


def _examples(path: Path) -> list[Any]:
    value = files.read_json(path)
    examples = value.get("examples") if isinstance(value, dict) else None
    if not isinstance(examples, list):
        raise InputError(Fault("is no task of BBH: it has no list `examples`", path))
    return examples


def from_tasks(tasks: Mapping[str, Sequence[Any]], place: Path | str, faults: list[Fault]) -> Benchmark:
    """The benchmark of rows by task; `faults` are what was found before. Raises InputError."""
    if not tasks and not faults:
        faults = [Fault("holds no task of BBH: `<task>.json` or `<task>/test-*.parquet`", place)]
    faults = list(faults)
    for task, rows in tasks.items():
        for number, row in enumerate(rows):
            faults += files.texts(row, FIELDS, f"{place}: {task}: example {number}", None)
        if len(rows) <= SHOTS:
            faults.append(Fault(f"the task `{task}` has {len(rows)} items: {SHOTS} are shots, and none is left", place))
    files.refuse(faults)
    items = [
        Item(f"{task}/{number}", task, _block(row), f" {row['target']}", truth={"target": row["target"]})
        for task, rows in tasks.items()
        for number, row in enumerate(rows)
        if number >= SHOTS
    ]
    return replace(
        BENCHMARK,
        all_items=tuple(items),
        shots={
            task: Shots(blocks=tuple(f"{_block(row)} {row['target']}\n\n" for row in rows[:SHOTS]))
            for task, rows in tasks.items()
        },
        chance=guesses(items, lambda item: str(item.truth["target"])),
    )


def _block(row: Mapping[str, str]) -> str:
    return f"{row['input']}\nAnswer:"


BENCHMARK = Benchmark(
    name="bbh",
    title="BBH",
    published=6_430,  # of 6,511, without 3 shots of each of 27 tasks
    new_tokens=32,
    judge=judge_begins,
    decided=decided_begins,
    find=find,
    of_hub=of_hub,
    files="`<task>.json`, or `<task>/test-*.parquet`",
    kind="tasks",
    average="macro",
)
