"""Where the data of a benchmark are: in a folder, or on the Hugging Face hub.

In a folder `DIR` a benchmark is looked for in the folders whose names begin with its own (`mmlu`, `mmlu_prerelease`),
and in `DIR` itself; each is recognised by its files, the published ones or those of the Hugging Face data set. Those
whose names do not tell DROP's or HumanEval's (`validation-*.parquet`, `test.jsonl`) count where their folder's does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meshtune.data.sources import hub_rows
from meshtune.errors import Fault, InputError, nearest
from meshtune.evaluation.benchmarks import bbh, drop, humaneval, items, mmlu
from meshtune.evaluation.benchmarks.items import Benchmark

NAMES = ("mmlu", "bbh", "drop", "humaneval")
_SPELLED = {"humaneval": ("humaneval", "human_eval", "human-eval", "openai_humaneval")}
_NEEDED = {
    "mmlu": "`test/<subject>_test.csv` with `dev/<subject>_dev.csv`, or `<subject>/test-*.parquet` is looked for, also",
    "bbh": "`<task>.json`, or `<task>/test-*.parquet` is looked for, also",
    "drop": "`drop_dataset_dev.json` is looked for, and `validation-*.parquet` or `*.jsonl`",
    "humaneval": "`HumanEval.jsonl.gz` is looked for, and `test-*.parquet` or `*.jsonl`",
}


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no benchmark's, all at once."""
    unknown = [name for name in names if name not in NAMES]
    listed = ", ".join(NAMES)
    if unknown:
        raise InputError(
            [Fault(f"no benchmark is called `{n}`; there are {listed}.{nearest(n, NAMES)}") for n in unknown]
        )


def load(names: Sequence[str], folder: Path | None, check: humaneval.Check) -> list[Benchmark]:
    """The benchmarks of these names, in this order, from a folder or from the hub (None).

    No names: all that the folder holds, or all that there are. Raises InputError with the faults of all of them; a
    folder that is named after a benchmark and holds no data of it is one.
    """
    check_names(names)
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of benchmark data")
    found, faults = list[Benchmark](), list[Fault]()
    for name in names or NAMES:
        try:
            read = _of_hub(name, check) if folder is None else _of_folder(name, folder, check)
            if read is None and folder is not None and (names or _named(name, folder)):
                what = f"holds no data of {name}: {_NEEDED[name]} in its folders `{name}*`"
                if not names:
                    what += f"; rename what `{_named(name, folder)[0].name}` holds, or name the `benchmarks` to score"
                raise InputError(Fault(what, folder))
            if read is not None:
                found.append(read())
                faults += [Fault(what, folder) for what in items.faults(found[-1])]
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    if not found:
        raise InputError(Fault(f"holds no data of a benchmark; there are {', '.join(NAMES)}", folder))
    return found


def _of_folder(name: str, folder: Path, check: humaneval.Check) -> Callable[[], Benchmark] | None:
    for place in (*_named(name, folder), folder):
        if (read := _recognised(name, place, check)) is not None:
            return read
    return None


def _named(name: str, folder: Path) -> list[Path]:
    """The folders in it that are named after the benchmark."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_named(name, path)]


def _is_named(name: str, folder: Path) -> bool:
    return folder.absolute().name.lower().startswith(_SPELLED.get(name, (name,)))


def _recognised(name: str, folder: Path, check: humaneval.Check) -> Callable[[], Benchmark] | None:
    def any_of(*patterns: str) -> Path | None:
        return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)

    match name:
        case "mmlu" if any_of("test/*_test.csv"):
            return functools.partial(mmlu.read_folder, folder)
        case "mmlu" if any_of("*/dev-*.parquet"):
            return functools.partial(mmlu.read_parquet, folder)
        case "bbh" if any(path.stem in bbh.TASKS for path in folder.glob("*.json")):
            return functools.partial(bbh.read_folder, folder, alone=_is_named(name, folder))
        case "bbh" if any(path.parent.name in bbh.TASKS for path in folder.glob("*/test-*.parquet")):
            return functools.partial(bbh.read_parquet, folder, alone=_is_named(name, folder))
        case "drop" if found := any_of("drop*dev*.json", "drop*.json"):
            return functools.partial(drop.read_official, found)
        case "drop" if found := any_of("drop*.jsonl", "drop*.jsonl.gz"):
            return functools.partial(drop.read_rows, found)
        case "drop" if _is_named(name, folder) and (found := any_of("**/validation-*.parquet", *_lines("validation"))):
            return functools.partial(drop.read_rows, found)
        case "humaneval" if found := any_of("[Hh]uman*[Ee]val*.jsonl*", "openai_humaneval/test-*.parquet"):
            return functools.partial(humaneval.read, found, check)
        case "humaneval" if _is_named(name, folder) and (found := any_of("**/test-*.parquet", *_lines("test"))):
            return functools.partial(humaneval.read, found, check)
    return None


def _lines(split: str) -> list[str]:
    """Patterns of JSON Lines: the file of the split that is scored before any other."""
    return [f"{name}.jsonl{packed}" for name in (f"{split}*", "*") for packed in ("", ".gz")]


def _of_hub(name: str, check: humaneval.Check) -> Callable[[], Benchmark]:
    def numbered(dataset: str, subset: str | None, split: str) -> Iterator[tuple[str, int, object]]:
        return ((dataset, line, row) for line, row in hub_rows(dataset, subset, split))

    match name:
        case "mmlu":
            place = "cais/mmlu"
            return lambda: mmlu.from_rows(numbered(place, "all", "dev"), numbered(place, "all", "test"), place)
        case "bbh":
            place = "lukaemon/bbh"
            return lambda: bbh.from_tasks(
                {task: [row for _, row in hub_rows(place, task, "test")] for task in bbh.TASKS}, place, []
            )
        case "drop":
            place = "ucinlp/drop"
            return lambda: drop.from_rows(hub_rows(place, None, "validation"), place)
    place = "openai/openai_humaneval"
    return lambda: humaneval.from_rows(hub_rows(place, None, "test"), place, check)
