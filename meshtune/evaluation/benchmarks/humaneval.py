"""HumanEval (Chen et al. 2021, arXiv:2107.03374): 164 functions to complete, judged by running their tests.

Prompt and cleaning of answers are those of Instruct-Eval's protocol: an instruction line before the problem's prompt;
of an answer, indents padded to even widths, leading line ends dropped, cut at the first blank line. Read from the
published file (JSON Lines, perhaps gzipped), or rows of the Hugging Face data set, which have the same fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import Fault
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import PER_BYTE, Benchmark, Item, Judged, Shots

PUBLISHED = 164
FIELDS = ("task_id", "prompt", "entry_point", "test", "canonical_solution")
INSTRUCTION = (
    "Please complete the following Python code without providing any additional tasks such as testing or explanations\n"
)

# Runs completions against their problems (the fields above), in order; each gives whether it passed, and why not.
Check = Callable[[Sequence[tuple[Mapping[str, str], str]]], Iterable[tuple[bool, str]]]


def read(path: Path, check: Check) -> Benchmark:
    """The benchmark of a file of problems. Raises InputError."""
    return from_rows(files.read_rows(path), path, check)


def from_rows(rows: Iterable[tuple[int, Any]], place: Path | str, check: Check) -> Benchmark:
    """The benchmark of problems with their lines; `check` runs completions. Raises InputError."""
    items, faults = list[Item](), list[Fault]()
    for line, row in rows:
        missing = files.texts(row, FIELDS, place, line)
        faults += missing
        if not missing:
            problem = {name: row[name] for name in FIELDS}
            text = INSTRUCTION + row["prompt"]
            items.append(Item(row["task_id"], "", text, row["canonical_solution"], truth=problem))
    files.refuse(faults)

    def judge(pairs: Sequence[tuple[Item, str]]) -> list[Judged]:
        checked = check([(item.truth, completion(answer)) for item, answer in pairs])
        return [Judged(passed, reason="" if passed else reason) for passed, reason in checked]

    return Benchmark(
        name="humaneval",
        title="HumanEval",
        kind="",
        all_items=tuple(items),
        shots={"": Shots()},
        new_tokens=512,
        prompt_tokens=2048,
        average="micro",
        chance={"": 0.0},
        likelihood=PER_BYTE,
        published=PUBLISHED,
        judge=judge,
        decided=decided,
    )


def completion(answer: str) -> str:
    """The code of an answer: what is put behind the problem's prompt and run."""
    padded = "\n".join(" " * ((len(line) - len(line.lstrip(" "))) % 2) + line for line in answer.split("\n"))
    return padded.lstrip("\n").split("\n\n")[0]


def decided(_: Item, answer: str) -> bool:
    """Whether the code has ended: what comes after a blank line is cut off."""
    return "\n\n" in answer.lstrip("\n")
