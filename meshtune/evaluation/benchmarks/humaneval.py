"""HumanEval (Chen et al. 2021, arXiv:2107.03374): 164 functions to complete, judged by running their tests.

Prompt and cleaning of answers are those of Instruct-Eval's protocol: an instruction line before the problem's prompt;
of an answer, indents padded to even widths, leading line ends dropped, cut at the first blank line. Read from the
published file (JSON Lines, perhaps gzipped), or rows of the Hugging Face data set, which have the same fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshtune.data.sources import hub_rows
from meshtune.errors import Fault
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import Benchmark, CodeCheck, Item, JudgedAnswer, Reader

HUB = "openai/openai_humaneval"
FIELDS = ("task_id", "prompt", "entry_point", "test", "canonical_solution")
INSTRUCTION = (
    "Please complete the following Python code without providing any additional tasks such as testing or explanations\n"
)


def find(folder: Path, named: bool) -> Reader | None:
    """See `Benchmark`."""
    patterns = (
        "[Hh]uman*[Ee]val*.jsonl*",
        "openai_humaneval/test-*.parquet",
        *(files.of_split("test") if named else ()),
    )
    found = files.first(folder, *patterns)
    return None if found is None else lambda: from_rows(files.read_rows(found), found)


def of_hub() -> Benchmark:
    """The benchmark of the Hugging Face hub. Raises InputError."""
    return from_rows(hub_rows(HUB, None, "test"), HUB)


def from_rows(rows: Iterable[tuple[int, Any]], place: Path | str) -> Benchmark:
    """The benchmark of problems with their lines. Raises InputError."""
    items, faults = list[Item](), list[Fault]()
    for line, row in rows:
        missing = files.texts(row, FIELDS, place, line)
        faults += missing
        if not missing:
            problem = {name: row[name] for name in FIELDS}
            items.append(
                Item(row["task_id"], "", INSTRUCTION + row["prompt"], row["canonical_solution"], truth=problem)
            )
    files.refuse(faults)
    return replace(BENCHMARK, all_items=tuple(items))


def judge(pairs: Sequence[tuple[Item, str]], check: CodeCheck) -> list[JudgedAnswer]:
    """Right where the code passes the problem's test, which `check` runs."""
    checked = check([(item.truth, completion(answer)) for item, answer in pairs])
    return [JudgedAnswer(passed, reason="" if passed else reason) for passed, reason in checked]


def completion(answer: str) -> str:
    """The code of an answer: what is put behind the problem's prompt and run."""
    padded = "\n".join(" " * ((len(line) - len(line.lstrip(" "))) % 2) + line for line in answer.split("\n"))
    return padded.lstrip("\n").split("\n\n")[0]


def decided(_: Item, answer: str) -> bool:
    """Whether the code has ended: what comes after a blank line is cut off."""
    return "\n\n" in answer.lstrip("\n")


BENCHMARK = Benchmark(
    name="humaneval",
    title="HumanEval",
    published=164,
    new_tokens=512,
    judge=judge,
    decided=decided,
    find=find,
    of_hub=of_hub,
    files="`HumanEval.jsonl.gz`, or `test-*.parquet` or `*.jsonl`",
    folders=("humaneval", "human_eval", "human-eval", "openai_humaneval"),
    runs_code=True,
)
