"""Stored answers: one file of JSON lines for each candidate and benchmark, which a killed run goes on with.

`<folder>/<protocol>/<benchmark>-<key>/<candidate>.jsonl`. The first line says what was asked of whom and how; each
other one is an item: its prompt, the answer, the verdict and the likelihood of the right answer. The key stands for the
first line but for the candidate, so that answers to other items or in another way stand beside these.

A line that a kill cut short is dropped. A file whose first line is of another adapter is begun anew. An answer of which
a likelihood is no finite number, as of a diverged adapter, has none: NaN is no JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, StorageError
from meshtune.system import whole_file

Line = dict[str, Any]
Key = tuple[str, int]  # of an item's answer: the item's id, and which of several samples
_NONE = type(None)
_KINDS: Mapping[str, Mapping[str, tuple[type, ...]]] = {  # of what scores need of an answer, by protocol
    "instruct-eval": {
        "right": (str,),
        "correct": (bool,),
        "cut": (bool,),
        "shots": (int, _NONE),
        "scores": (dict,),
        "log_likelihoods": (dict, _NONE),
    },
    "harness": {"answer": (str,), "log_likelihoods": (list,), "greedy": (list,)},
}


@dataclass(frozen=True)
class AnswerFile:
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


def read(place: AnswerFile) -> dict[Key, Line]:
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
            found[line["item"], line["sample"]] = _whole(line, place.protocol)
        except (ValueError, TypeError, KeyError) as error:
            what = "is no answer of meshtune: remove the file, and the same command asks again"
            raise InputError(Fault(what, path, number)) from error
    return found


def _whole(line: Line, protocol: str) -> Line:
    """An answer with all that scores need. Raises TypeError or KeyError where it lacks some."""
    for name, kinds in _KINDS.get(protocol, {}).items():
        if not isinstance(line[name], kinds):
            raise TypeError(f"`{name}` is of another kind")
    if isinstance(line["log_likelihoods"], dict):
        line["log_likelihoods"][line["right"]]
    return _finite(line, math.nan)


def _finite(line: Line, instead: float | None) -> Line:
    """A line whose likelihoods by answer are all finite or not known; of a list, `instead` stands for what is not."""
    match line.get("log_likelihoods"):
        case dict() as by_answer:  # NaN stands in files of earlier versions
            return line | {"log_likelihoods": by_answer if all(map(math.isfinite, by_answer.values())) else None}
        case list() as listed:
            known = [instead if value is None or math.isnan(value) else value for value in listed]
            return line | {"log_likelihoods": known}
    return line


class Writer:
    """Puts answers at the end of a file; made by `writing`."""

    def __init__(self, path: Path, file: FileIO):
        self._path, self._file = path, file

    def add(self, lines: Sequence[Line]) -> None:
        """Store some answers: they are in the file when this returns. Raises StorageError."""
        text = "".join(json.dumps(_finite(line, None), ensure_ascii=False) + "\n" for line in lines)
        left = memoryview(text.encode())
        with whole_file.writing(self._path):
            while left:
                left = left[self._file.write(left) :]


@contextlib.contextmanager
def writing(place: AnswerFile) -> Iterator[tuple[dict[Key, Line], Writer]]:
    """The stored answers, and a writer of more. Raises InputError as `read`, and StorageError."""
    known, path = read(place), place.path
    with whole_file.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer that a full disk has refused would be written again on closing, and refused again.
        file = path.open("r+b" if known else "wb", buffering=0)
    with file:
        writer = Writer(path, file)
        if known:
            with whole_file.writing(path):
                whole = file.read().rfind(b"\n") + 1
                file.seek(whole)
                file.truncate()
        else:
            writer.add([place.head])
        yield known, writer
