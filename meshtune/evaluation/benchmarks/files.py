"""Files of benchmarks as values, and every way in which they cannot be read as a fault with its file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshtune.data import files
from meshtune.errors import Fault, InputError

SHOWN = 20  # faults of a benchmark; more are counted


def read_text(path: Path) -> str:
    """The text of a file, unpacked where it ends in `.gz`. Raises InputError."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return data.decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(Fault(f"is no whole gzip file ({error}): fetch it again", path)) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(Fault("is not UTF-8 text: fetch it again", path, line)) from error
    except OSError as error:
        raise InputError(Fault(f"cannot be read ({error.strerror or error})", path)) from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises InputError."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise InputError(Fault(f"is no whole JSON file ({error}): fetch it again", path, line)) from error


def read_table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Rows of a CSV file without a header, with the lines where they end. Raises InputError with all short rows."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows, faults = list[tuple[int, list[str]]](), list[Fault]()
    try:
        for row in reader:
            if len(row) == columns:
                rows.append((reader.line_num, row))
            elif row:
                faults.append(Fault(f"has {len(row)} fields instead of {columns}", path, reader.line_num))
    except csv.Error as error:
        faults.append(Fault(f"malformed CSV: {error}", path, reader.line_num))
    if not rows:
        faults.append(Fault("holds no row", path))
    refuse(faults)
    return rows


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a JSON, JSON Lines or Parquet file, with their lines. Raises InputError."""
    items, faults = files.read(path)
    rows = list[tuple[int, dict[str, Any]]]()
    for number, value in items:
        if isinstance(value, dict):
            rows.append((number, value))
        else:
            faults.append(Fault("is no object", path, number))
    if not rows and not faults:
        faults = [Fault("holds no row", path)]
    refuse(faults)
    return rows


def first(folder: Path, *patterns: str) -> Path | None:
    """The first file of the first pattern that there is one of."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def of_split(split: str) -> tuple[str, ...]:
    """Patterns of a split's rows in the formats of the Hugging Face hub: Parquet, or JSON Lines, its own ones first."""
    lines = (f"{name}.jsonl{packed}" for name in (f"{split}*", "*") for packed in ("", ".gz"))
    return f"**/{split}-*.parquet", *lines


def texts(row: Any, names: Sequence[str], path: Path | str, line: int | None) -> list[Fault]:
    """Faults of a row that lacks one of these texts."""
    held = row if isinstance(row, dict) else {}
    missing = [name for name in names if not isinstance(held.get(name), str)]
    return [Fault(f"has no text `{name}`", path, line) for name in missing]


def refuse(faults: Sequence[Fault]) -> None:
    """Raise InputError where there is a fault; the first ones are shown."""
    if faults:
        more = len(faults) - SHOWN
        raise InputError([*faults[:SHOWN], *([Fault(f"and {more} more faults like these")] if more > 0 else [])])
