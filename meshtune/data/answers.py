"""Files of answers: what a model said to validation rows, one file a model, one JSON line a row, in row order.

`<study>/evaluation/answers/<name>.jsonl`, named `untuned`, `baseline` or `trial-3`:
`{"row": number, "prompt": text, "reference": text, "answer": text, "scores": {metric: number}, "made": text}`; `row` is
the number of the validation row, `made` says with which settings (`metrics.stamp`). A file that stands there is whole.
Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError
from meshtune.system import whole_file

FOLDER = Path("evaluation") / "answers"  # in the study's folder
KEYS = ("row", "prompt", "reference", "answer")


def file_of(adapter: str | None) -> Path:
    """Where the answers of an adapter such as `adapters/3` stand in the study's folder; None is the untuned model."""
    name = "untuned" if adapter is None else adapter.rpartition("/")[2]
    return FOLDER / f"{f'trial-{name}' if name.isdecimal() else name}.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """The answers of a file. Raises InputError where it holds something else."""
    lines = list[dict[str, Any]]()
    # Only \n ends a line: str.splitlines would also cut at U+2028, which may stand inside an answer.
    for number, text in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            line = json.loads(text)
            scores = {str(name): float(score) for name, score in line["scores"].items()}
            lines.append({**{key: line[key] for key in KEYS}, "scores": scores, "made": str(line.get("made", ""))})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = "is no answer of meshtune: remove the file, and `meshtune tune` writes it again"
            raise InputError(Fault(what, path, number)) from error
    return lines


def are_made(path: Path, made: str) -> bool:
    """Whether there is a file whose answers were made with these settings."""
    return path.exists() and all(line["made"] == made for line in read(path))


def read_all(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The answers of all models of the study in `folder`, by name. Raises InputError as `read`."""
    return {path.stem: read(path) for path in sorted((folder / FOLDER).glob("*.jsonl"))}


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a file, whole or not at all. Raises StorageError."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    whole_file.write_all(path.parent, {path.name: text}, path.name)
