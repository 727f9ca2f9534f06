"""Stored answers: one file of JSON lines for each candidate and benchmark, which a killed run goes on with.

`<folder>/<protocol>/<benchmark>-<key>/<candidate>.jsonl`. The first line says what was asked of whom and how; each
other one is an item: its prompt, the answer, the verdict and the likelihood of the right answer. The key stands for the
first line but for the candidate, so that answers to other items or in another way stand beside these.

A line that a kill cut short is dropped. A file whose first line is of another adapter is begun anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from meshtune.errors import Fault, InputError, StorageError

Line = dict[str, Any]
Key = tuple[str, int]  # of an item's answer: the item's id, and which of several samples


@dataclass(frozen=True)
class Place:
    """Where the answers of a candidate to a benchmark stand.

    Attributes:
        folder: of all benchmarks' answers. protocol, benchmark: names. asked: all that decides what is asked and how,
            plain values. candidate: its name. by: what answers (the model and a hash of the adapter).
    """

    folder: Path
    protocol: str
    benchmark: str
    asked: Mapping[str, Any]
    candidate: str
    by: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file."""
        text = json.dumps(self.asked, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / self.protocol / f"{self.benchmark}-{key}" / f"{self.candidate}.jsonl"

    @property
    def head(self) -> Line:
        """The file's first line."""
        names = {"protocol": self.protocol, "benchmark": self.benchmark, "candidate": self.candidate}
        values: Line = json.loads(json.dumps({**names, "asked": self.asked, "by": self.by}))
        return values


def read(place: Place) -> dict[Key, Line]:
    """The stored answers. Raises InputError where the file holds something else."""
    path = place.path
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    found: dict[Key, Line] = {}
    for number, text in enumerate(lines[:-1], start=1):  # what follows the last line end was cut short
        try:
            line = json.loads(text)
            if number == 1:
                if line != place.head:
                    return {}
                continue
            found[line["item"], line["sample"]] = line
        except (ValueError, TypeError, KeyError) as error:
            what = "is no answer of meshtune: remove the file, and the same command asks again"
            raise InputError(Fault(what, path, number)) from error
    return found


class Writer:
    """Puts answers at the end of a file; made by `writing`."""

    def __init__(self, path: Path, file: IO[bytes]):
        self._path, self._file = path, file

    def add(self, lines: Sequence[Line]) -> None:
        """Store some answers: they are in the file when this returns. Raises StorageError."""
        try:
            self._file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            self._file.flush()
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(place: Place) -> Iterator[tuple[dict[Key, Line], Writer]]:
    """The stored answers, and a writer of more. Raises InputError as `read`, and StorageError."""
    known, path = read(place), place.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if known else "wb")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    with file:
        writer = Writer(path, file)
        if known:
            whole = file.read().rfind(b"\n") + 1
            file.seek(whole)
            file.truncate()
        else:
            writer.add([place.head])
        yield known, writer
