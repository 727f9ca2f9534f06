"""BIG-Bench Hard (Suzgun et al. 2022, arXiv:2210.09261): 27 tasks, whose first 3 items are the shots of the others.

Prompts are those of Instruct-Eval's protocol: no task description, no chain of thought. Read from the published files
(`<task>.json` with `examples`), or from rows of the Hugging Face data set (`input`, `target`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.evaluation.benchmarks import files, verdicts
from meshtune.evaluation.benchmarks.items import PER_BYTE, Benchmark, Item, Shots, guesses

SHOTS = 3
PUBLISHED = 6_430  # of 6,511, without 3 shots of each of 27 tasks
FIELDS = ("input", "target")
TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)


def read_folder(folder: Path, *, alone: bool = True) -> Benchmark:
    """The benchmark of a folder with one `<task>.json` a task. Raises InputError.

    `alone`: nothing else lies there. Otherwise a file that is no task and has no published task's name is passed over.
    """
    tasks, faults = dict[str, Sequence[Any]](), list[Fault]()
    for path in sorted(folder.glob("*.json")):
        try:
            tasks[path.stem] = _examples(path)
        except InputError as error:
            faults += error.faults if alone or path.stem in TASKS else ()
    return from_tasks(tasks, folder, faults)


def _examples(path: Path) -> list[Any]:
    value = files.read_json(path)
    examples = value.get("examples") if isinstance(value, dict) else None
    if not isinstance(examples, list):
        raise InputError(Fault("is no task of BBH: it has no list `examples`", path))
    return examples


def read_parquet(folder: Path, *, alone: bool = True) -> Benchmark:
    """The benchmark of the Hugging Face layout: `<task>/test-*.parquet`. Raises InputError.

    `alone`: as for `read_folder`.
    """
    tasks, faults = dict[str, list[Any]](), list[Fault]()
    for path in sorted(folder.glob("*/test-*.parquet")):
        task, wanted = path.parent.name, alone or path.parent.name in TASKS
        try:
            rows = [row for _, row in files.read_rows(path)]
        except InputError as error:
            faults += error.faults if wanted else ()
            continue
        if wanted or not files.texts(rows[0], FIELDS, path, None):
            tasks.setdefault(task, []).extend(rows)
    return from_tasks(tasks, folder, faults)


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
    return Benchmark(
        name="bbh",
        title="BBH",
        kind="tasks",
        all_items=tuple(items),
        shots={
            task: Shots(blocks=tuple(f"{_block(row)} {row['target']}\n\n" for row in rows[:SHOTS]))
            for task, rows in tasks.items()
        },
        new_tokens=32,
        prompt_tokens=2048,
        average="macro",
        chance=guesses(items, lambda item: str(item.truth["target"])),
        likelihood=PER_BYTE,
        published=PUBLISHED,
        judge=verdicts.judge_begins,
        decided=verdicts.decided_begins,
    )


def _block(row: Mapping[str, str]) -> str:
    return f"{row['input']}\nAnswer:"
