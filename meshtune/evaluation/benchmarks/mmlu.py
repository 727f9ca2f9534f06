"""MMLU (Hendrycks et al. 2021, arXiv:2009.03300): four choices, 57 subjects, 5 shots of the subject's dev file.

Prompts are those of Instruct-Eval's protocol. Read from the published CSV files (`dev/` and `test/`), or from rows of
the Hugging Face data set (`question`, `subject`, `choices`, `answer`). Fields are text as they stand: where pandas, and
with it Instruct-Eval, reads `None` or `N/A` as a missing number, the words are kept here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshtune.data.sources import hub_rows
from meshtune.errors import Fault, InputError
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import (
    PROBABILITY,
    Benchmark,
    Item,
    Reader,
    Shots,
    decided_begins,
    judge_begins,
)

LETTERS = ("A", "B", "C", "D")
SHOTS = 5
HUB = "cais/mmlu"
Question = tuple[str, tuple[str, ...], str]  # question, four choices, the right letter


def find(folder: Path, named: bool) -> Reader | None:
    """See `Benchmark`."""
    for pattern, read in (("test/*_test.csv", read_folder), ("*/dev-*.parquet", read_parquet)):
        if files.first(folder, pattern):
            return functools.partial(read, folder)
    return None


def of_hub() -> Benchmark:
    """The benchmark of the Hugging Face hub. Raises InputError."""
    dev, test = ([(HUB, line, row) for line, row in hub_rows(HUB, "all", side)] for side in ("dev", "test"))
    return from_rows(dev, test, HUB)


def read_folder(folder: Path) -> Benchmark:
    """The benchmark of a folder with `dev/<subject>_dev.csv` and `test/<subject>_test.csv`. Raises InputError."""
    subjects = {path.name.removesuffix("_test.csv"): path for path in sorted((folder / "test").glob("*_test.csv"))}
    dev, test = dict[str, list[Question]](), dict[str, list[Question]]()
    faults = list[Fault]()
    for subject, path in subjects.items():
        shots = folder / "dev" / f"{subject}_dev.csv"
        if shots.exists():
            dev[subject] = _questions(shots, faults)
        test[subject] = _questions(path, faults)
    return _benchmark(dev, test, folder, faults)


def read_parquet(folder: Path) -> Benchmark:
    """The benchmark of the Hugging Face layout: `<subject>/dev-*.parquet` and `test-*.parquet`, or those of `all/`."""
    whole = folder / "all"
    root = whole if whole.is_dir() else folder
    sides = {side: sorted(root.rglob(f"{side}-*.parquet")) for side in ("dev", "test")}
    rows = {
        side: [(path, line, row) for path in paths for line, row in files.read_rows(path)]
        for side, paths in sides.items()
    }
    return from_rows(rows["dev"], rows["test"], folder)


def from_rows(
    dev: Iterable[tuple[Path | str, int, Any]], test: Iterable[tuple[Path | str, int, Any]], place: Path | str
) -> Benchmark:
    """The benchmark of rows of the Hugging Face data set, each with its file and line. Raises InputError."""
    faults = list[Fault]()
    return _benchmark(_by_subject(dev, faults), _by_subject(test, faults), place, faults)


def _by_subject(rows: Iterable[tuple[Path | str, int, Any]], faults: list[Fault]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for place, line, row in rows:
        missing = files.texts(row, ("question", "subject"), place, line)
        faults += missing
        choices, answer = row.get("choices"), row.get("answer")
        whole = isinstance(choices, list) and len(choices) == len(LETTERS) and all(isinstance(c, str) for c in choices)
        # `in range` alone would take 1.0 and True too.
        if not whole or type(answer) is not int or answer not in range(len(LETTERS)):
            faults.append(Fault("needs four texts `choices` and a whole number `answer` from 0 to 3", place, line))
        elif not missing:
            found.setdefault(row["subject"], []).append((row["question"], tuple(choices), LETTERS[answer]))
    return found


def _questions(path: Path, faults: list[Fault]) -> list[Question]:
    try:
        rows = files.read_table(path, 2 + len(LETTERS))
    except InputError as error:
        faults += error.faults
        return []
    wrong = [(line, row[-1]) for line, row in rows if row[-1] not in LETTERS]
    faults += [Fault(f"`{letter}` is no answer; A, B, C and D are", path, line) for line, letter in wrong]
    return [(row[0], tuple(row[1:-1]), row[-1]) for _, row in rows]


def _benchmark(
    dev: dict[str, list[Question]], test: dict[str, list[Question]], place: Path | str, faults: list[Fault]
) -> Benchmark:
    if not test and not faults:
        faults.append(Fault("holds no test items of MMLU: `test/<subject>_test.csv` or `test-*.parquet`", place))
    for subject in test:
        held = len(dev.get(subject, ()))
        if held < SHOTS:
            what = f"the subject `{subject}` has {held} of the {SHOTS} shots that come from its dev file"
            faults.append(Fault(f"{what}: add the file, or remove the subject", place))
    files.refuse(faults)
    items = [
        Item(
            id=f"{subject}/{number}",
            group=subject,
            text=_block(question, choices),
            gold=f" {letter}",
            choices=tuple(f" {each}" for each in LETTERS),
            truth={"target": letter},
        )
        for subject, questions in test.items()
        for number, (question, choices, letter) in enumerate(questions)
    ]
    return replace(
        BENCHMARK,
        all_items=tuple(items),
        shots={subject: _shots(subject, dev[subject][:SHOTS]) for subject in test},
        chance=dict.fromkeys(test, 1 / len(LETTERS)),
    )


def _shots(subject: str, questions: list[Question]) -> Shots:
    words = "".join(f" {word}" for word in subject.split("_"))  # so that two spaces stand before it
    header = f"The following are multiple choice questions (with answers) about {words}.\n\n"
    return Shots(header, tuple(f"{_block(question, choices)} {letter}\n\n" for question, choices, letter in questions))


def _block(question: str, choices: tuple[str, ...]) -> str:
    lines = [f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return f"{question}{''.join(lines)}\nAnswer:"


BENCHMARK = Benchmark(
    name="mmlu",
    title="MMLU",
    published=14_042,
    new_tokens=2,
    judge=judge_begins,
    decided=decided_begins,
    find=find,
    of_hub=of_hub,
    files="`test/<subject>_test.csv` with `dev/<subject>_dev.csv`, or `<subject>/test-*.parquet`",
    kind="subjects",
    likelihood=PROBABILITY,
)
