"""Files of rows: JSON, JSON Lines, CSV and Parquet, each also gzipped, as numbered values.

Guarantees: every value carries the line where it begins (Parquet: its row); a file that cannot be read, is not UTF-8
or is malformed gives faults with lines, never a traceback, and all malformed lines of JSON Lines at once. Does not
look at keys and does not stream: a file is read whole.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from meshtune.data.rows import Place
from meshtune.errors import Fault, InputError, MissingExtra, extra, nearest

Items = list[tuple[int, object]]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")

_SPACE = re.compile(r"[ \t\n\r]*")
_LIST_START = re.compile(r'\s*(?P<object>\{\s*"(?:[^"\\]|\\.)*"\s*:\s*)?\[')


def place_of(path: Path) -> Place:
    """How the file's rows are numbered."""
    return Place(path, "row" if _suffix(path) == ".parquet" else "line")


def digest(path: Path) -> str:
    """sha256 of the file as it lies there. Raises InputError where it cannot be read."""
    return hashlib.sha256(_bytes(path)).hexdigest()


def read(path: Path) -> tuple[Items, list[Fault]]:
    """The file's values with their lines, and the faults of what could not be read. Raises InputError on the whole."""
    place, suffix = place_of(path), _suffix(path)
    if suffix not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise InputError(Fault(f"`{suffix}` is no known kind of file: allowed are {allowed}, each also .gz", path))
    data = _unpacked(path)
    if suffix == ".parquet":
        return _parquet(data, place), []
    faults = list[Fault]()
    text = _decoded(data, place, faults)
    match suffix:
        case ".csv":
            return _csv(text, place, faults), faults
        case ".json" if not _is_lines(text):
            return _json(text, place, faults), faults
        case _:
            return _json_lines(text, place, faults), faults


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(missing(path)) from error
    except OSError as error:
        raise InputError(Fault(f"cannot be read: {error.strerror or error}", path)) from error


def missing(path: Path) -> Fault:
    """What is said of a file that is not there: which one beside it may be meant."""
    return Fault(f"there is no such file.{_neighbour(path)}", path)


def _neighbour(path: Path) -> str:
    try:
        return nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        return f" Nor is there a readable folder {path.parent}."


def _unpacked(path: Path) -> bytes:
    data = _bytes(path)
    if path.suffix.lower() != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(Fault(f"is no whole gzip file: {error}", path)) from error


def _decoded(data: bytes, place: Place, faults: list[Fault]) -> str:
    """The text; lines that are not UTF-8 become faults and empty lines, so that the rest is still checked."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        lines = []
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                lines.append(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                what = f"not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}); save the file as UTF-8"
                faults.append(place.fault(number, what))
                lines.append("")
        return "\n".join(lines)


def _malformed(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON at column {error.colno}: {error.msg}"
    return f"malformed JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _json_lines(text: str, place: Place, faults: list[Fault]) -> Items:
    items: Items = []
    # Only \n ends a line: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            faults.append(place.fault(number, _malformed(error)))
    return items


def _is_lines(text: str) -> bool:
    """Whether a .json file is really JSON Lines: its first filled line is a whole object and more follows."""
    first, _, rest = text.strip().partition("\n")
    if not (first.startswith("{") and rest.strip()):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return True


def _json(text: str, place: Place, faults: list[Fault]) -> Items:
    if faults:  # what is not UTF-8 was cut out, so that the syntax means nothing
        return []
    start = _LIST_START.match(text)
    if start is None:
        faults.append(place.fault(1, "must be a list of rows, or an object that holds one list of rows"))
        return []
    try:
        return list(_listed(text, start))
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        faults.append(place.fault(line, _malformed(error)))
    return []


def _listed(text: str, start: re.Match[str]) -> Iterator[tuple[int, object]]:
    """The list's values with the lines where they begin. `json.loads` would lose the lines."""
    decode = json.JSONDecoder().raw_decode

    def skip(position: int) -> int:
        match = _SPACE.match(text, position)
        return match.end() if match else position

    line, counted = 1, 0
    position = skip(start.end())
    closed = text.startswith("]", position)
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        value, position = decode(text, position)
        yield line, value
        position = skip(position)
        closed = text.startswith("]", position)
        if not closed:
            if not text.startswith(",", position):
                raise json.JSONDecodeError("expected `,` or `]`", text, position)
            position = skip(position + 1)
    position = skip(position + 1)
    if start["object"]:
        if not text.startswith("}", position):
            raise json.JSONDecodeError("the object must hold one list of rows and nothing else", text, position)
        position = skip(position + 1)
    if position < len(text):
        raise json.JSONDecodeError("more text after the list", text, position)


def _csv(text: str, place: Place, faults: list[Fault]) -> Items:
    if faults:  # a quoted field may span lines, so that a cut-out line shifts the fields
        return []
    items: Items = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)
    try:
        header = next(reader, [])
        while True:
            number = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:
                break
            if not fields:
                continue
            if len(fields) == len(header):
                items.append((number, dict(zip(header, fields, strict=True))))
            else:
                faults.append(place.fault(number, f"has {len(fields)} fields, but the header has {len(header)}"))
    except csv.Error as error:
        faults.append(place.fault(reader.line_num, f"malformed CSV: {error}"))
    finally:
        csv.field_size_limit(limit)
    return items


def _parquet(data: bytes, place: Place) -> Items:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("reading Parquet", "pyarrow", extra("train")) from error
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(Fault(f"is no readable Parquet file: {error}", place.name)) from error
    return list(enumerate(table.to_pylist(), 1))
