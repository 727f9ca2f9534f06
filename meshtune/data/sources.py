"""Reads sources: JSON, JSON Lines, CSV, Parquet (each but Parquet also `.gz`), a Hugging Face data set, or embedded rows.

Every fault of a source is reported at once, with the file's line: missing or unreadable files, text that is not UTF-8,
malformed lines, missing keys. Nothing is dropped here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshtune.config import SourceConfig
from meshtune.data import embedded
from meshtune.data.rows import Row, by_name, describe_formats, read_row, recognise
from meshtune.errors import Fault, InputError

SHOWN = 10  # faults of one source that are printed one by one

Record = tuple[int | None, Mapping[str, Any]]  # line number where the file has lines, fields


def read(source: SourceConfig) -> list[Row]:
    """All rows of a source, in its order. Raises InputError with its faults."""
    if source.embedded is not None:
        return embedded.rows(source.embedded)
    faults: list[Fault] = []
    name: Path | str = Path(source.path) if source.path is not None else str(source.dataset)
    records = list(_records(source, faults))
    rows = _rows(records, source, name, faults)
    if faults:
        more = len(faults) - SHOWN
        shown = faults[:SHOWN] + ([Fault(f"and {more} more faults", name)] if more > 0 else [])
        raise InputError(shown)
    if not rows:
        raise InputError(Fault("holds no rows", name))
    return rows


def identity(source: SourceConfig) -> dict[str, Any]:
    """What tells whether a source has changed: a file's size and hash, else its name (and Python's version)."""
    if source.embedded is not None:
        return {"embedded": source.embedded, "version": embedded.version()}
    if source.path is None:
        return {"dataset": source.dataset, "split": source.split}
    return {"path": source.path, **file_identity(Path(source.path))}


def file_identity(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise InputError(_unreadable(path, error)) from error


def _rows(records: list[Record], source: SourceConfig, name: Path | str, faults: list[Fault]) -> list[Row]:
    if not records:
        return []
    form = by_name(source.format) if source.format != "auto" else recognise(list(records[0][1]))
    if form is None:
        keys = ", ".join(records[0][1]) or "none"
        message = f"the format is not recognised; its first row has the keys: {keys}. Known: {describe_formats()}"
        faults.append(Fault(message, name, records[0][0]))
        return []
    rows = []
    for line, fields in records:
        try:
            rows.append(read_row(fields, form))
        except ValueError as error:
            faults.append(Fault(str(error), name, line))
    return rows


def _records(source: SourceConfig, faults: list[Fault]) -> Iterator[Record]:
    if source.path is None:
        yield from _hub(source)
        return
    path = Path(source.path)
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        yield from _parquet(path)
        return
    text = _text(path)
    match kind:
        case "jsonl" | "ndjson":
            yield from _json_lines(text, path, faults)
        case "json":
            yield from _json(text, path, faults)
        case "csv":
            yield from _csv(text, path, faults)
        case _:
            faults.append(Fault(f"`.{kind}` is not known: .json, .jsonl, .csv (also .gz) and .parquet are", path))


def _text(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(_unreadable(path, error)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(Fault("is not UTF-8 text: save it as UTF-8", path, line)) from error


def _unreadable(path: Path, error: Exception) -> Fault:
    if isinstance(error, FileNotFoundError):
        return Fault("there is no such file", path)
    return Fault(f"cannot be read: {getattr(error, 'strerror', None) or error}", path)


def _json_lines(text: str, path: Path, faults: list[Fault]) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _object(json.loads(line))
            except ValueError as error:
                faults.append(Fault(f"malformed JSON line: {error}", path, number))


def _json(text: str, path: Path, faults: list[Fault]) -> Iterator[Record]:
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        if len(text.strip().splitlines()) > 1 and "Extra data" in error.msg:
            yield from _json_lines(text, path, faults)  # JSON Lines under the name of JSON
            return
        faults.append(Fault(f"malformed JSON: {error.msg}", path, error.lineno))
        return
    if isinstance(loaded, dict) and len(lists := [item for item in loaded.values() if isinstance(item, list)]) == 1:
        loaded = lists[0]
    if not isinstance(loaded, list):
        faults.append(Fault("must hold a list of rows, or an object with one list", path))
        return
    for index, item in enumerate(loaded):
        try:
            yield None, _object(item)
        except ValueError as error:
            faults.append(Fault(f"row {index}: {error}", path))


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a row must be an object with keys, not {type(value).__name__}")
    return value


def _csv(text: str, path: Path, faults: list[Fault]) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if None in fields or None in fields.values():
                faults.append(Fault("has more or fewer cells than the header", path, reader.line_num))
                continue
            yield reader.line_num, fields
    except csv.Error as error:
        faults.append(Fault(f"malformed CSV: {error}", path, reader.line_num))


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(_unreadable(path, error)) from error
    for fields in table.to_pylist():
        yield None, fields


def _hub(source: SourceConfig) -> Iterator[Record]:
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(source.dataset, split=source.split)
    except Exception as error:  # its errors have no common base; each becomes one message with what to do
        raise InputError(
            Fault(
                f"the data set cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]}). Is the id right,"
                " does it have this split, must its terms be accepted (`hf auth login`), is there a network or a"
                " cached copy?",
                str(source.dataset),
            )
        ) from error
    for fields in loaded:
        yield None, fields
