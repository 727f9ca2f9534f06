"""The rows of validation and test as the user's files have them, beside their tokens.

Guarantees: line i belongs to row i of the side's arrays. Each row of an unrolled conversation repeats it.
Values that JSON does not know (dates and bytes of Parquet) are kept as text.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError

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
    """The side's rows, in order. Raises InputError where they are missing, as in data of meshtune 0.1, or damaged."""
    path = folder / file_name(side)
    try:
        with open(path, encoding="utf-8") as file:
            return [Original(**json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(Fault(f"is missing or damaged ({error}): prepare the data again", path)) from error
