"""The rows of validation and test as the user's files have them, beside their tokens.

Guarantees: line i belongs to row i of the side's arrays. Each row of an unrolled conversation repeats it.
Values that JSON does not know (dates and bytes of Parquet) are kept as text.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshtune.data.store import Damaged

SIDES = ("validation", "test")


@dataclass(frozen=True)
class Original:
    """Where a row comes from.

    Attributes:
        source: name of its source. line: where it stands there, from 1.
        row: the row as the file has it. answer_start: number of the first token of its last answer.
    """

    source: str
    line: int
    row: Any
    answer_start: int

    def line_of_json(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self), default=str)


def file_name(side: str) -> str:
    """The file of a side, in the folder of the prepared data."""
    return f"{side}.rows.jsonl"


def read(folder: Path, side: str) -> list[Original]:
    """The side's rows, in order. Raises Damaged where they are missing (as in data of meshtune 0.1) or unreadable."""
    path = folder / file_name(side)
    try:
        with open(path, encoding="utf-8") as file:
            return [Original(**json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(path, f"is missing or damaged ({error})") from error


def check(folder: Path, side: str, count: int) -> None:
    """Raise Damaged where the side's rows are not so many, or cannot be read."""
    if (found := len(read(folder, side))) != count:
        raise Damaged(folder / file_name(side), f"is damaged (it has {found:,} rows, not {count:,})")
