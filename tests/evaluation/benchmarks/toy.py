"""A benchmark of one's own, as docs/evaluation.md says: sums, in a file with a sum and its result a line."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from meshtune.errors import InputError
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import Benchmark, Item, Reader, decided_begins, judge_begins


def find(folder: Path, named: bool) -> Reader | None:
    path = files.first(folder, "sums.txt")
    return None if path is None else functools.partial(read, path)


def read(path: Path) -> Benchmark:
    sums = [line.partition(" = ") for line in files.read_text(path).splitlines()]
    items = [Item(text, "", f"{text} =", f" {result}", truth={"target": result}) for text, _, result in sums]
    return replace(BENCHMARK, all_items=tuple(items))


def of_hub() -> Benchmark:
    raise InputError("toy: the hub has no such data set: name a folder with `--data`")


BENCHMARK = Benchmark(
    name="toy",
    title="Toy sums",
    published=3,
    new_tokens=4,
    judge=judge_begins,
    decided=decided_begins,
    find=find,
    of_hub=of_hub,
    files="`sums.txt`",
)
