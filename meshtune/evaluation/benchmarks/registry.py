"""All benchmarks, and their data out of a folder or from the Hugging Face hub.

A benchmark is a file of this folder that defines `BENCHMARK` (see `items.Benchmark`), and its name in `BENCHMARKS` of
meshtune/space/goals.py, where study.yaml, the command line and the tables have it from too: docs/evaluation.md.

In a folder `DIR` a benchmark is looked for in the folders whose names begin with its own (`mmlu`, `mmlu_prerelease`),
and in `DIR` itself; each is recognised by its files, the published ones or those of the Hugging Face data set. Those
whose names do not tell DROP's or HumanEval's (`validation-*.parquet`, `test.jsonl`) count where their folder's does.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meshtune.errors import Fault, InputError, nearest, noting, refuse
from meshtune.evaluation.benchmarks import items
from meshtune.evaluation.benchmarks.items import Benchmark, CodeCheck, Reader
from meshtune.space.goals import BENCHMARKS

ALL: tuple[Benchmark, ...] = tuple(importlib.import_module(f"{__package__}.{name}").BENCHMARK for name in BENCHMARKS)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no benchmark's, all at once."""
    what = f"there are {', '.join(BENCHMARKS)}."
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise InputError([Fault(f"no benchmark is called `{n}`; {what}{nearest(n, BENCHMARKS)}") for n in unknown])


def load(names: Sequence[str], folder: Path | None, check: CodeCheck) -> list[Benchmark]:
    """The benchmarks of these names, in this order, from a folder or from the hub (None); `check` runs code.

    No names: all that the folder holds, or all that there are. Raises InputError with the faults of all of them; a
    folder that is named after a benchmark and holds no data of it is one.
    """
    check_names(names)
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of benchmark data")
    found, faults = list[Benchmark](), list[Fault]()
    for one in [ALL[BENCHMARKS.index(name)] for name in names] or ALL:
        with noting(faults):
            read = one.of_hub if folder is None else _in_folder(one, folder, wanted=bool(names))
            if read is not None:
                loaded = read()
                found.append(
                    replace(loaded, judge=functools.partial(one.judge, check=check)) if one.runs_code else loaded
                )
                faults += [Fault(what, folder) for what in items.faults(loaded)]
    if faults and folder is None:
        faults.append(Fault("a folder that holds benchmarks is given as `--data`, or as `evaluation.data`"))
    refuse(faults)
    if not found:
        raise InputError(Fault(f"holds no data of a benchmark; there are {', '.join(BENCHMARKS)}", folder))
    return found


def _in_folder(one: Benchmark, folder: Path, *, wanted: bool) -> Reader | None:
    """What reads the benchmark. Raises InputError where it is not there and is `wanted`, or a folder has its name."""
    named = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_named(one, path)]
    for place in (*named, folder):
        if (read := one.find(place, _is_named(one, place))) is not None:
            return read
    if not wanted and not named:
        return None
    what = f"holds no data of {one.name}: {one.files} is looked for, also in its folders `{one.name}*`"
    if not wanted:
        what += f"; rename what `{named[0].name}` holds, or name the `benchmarks` to score"
    raise InputError(Fault(what, folder))


def _is_named(one: Benchmark, folder: Path) -> bool:
    return folder.absolute().name.lower().startswith(one.folders or one.name)
