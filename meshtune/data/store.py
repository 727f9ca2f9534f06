"""Prepared data on disk: three arrays a side, the original rows of two sides, and a manifest, in one folder; and their
rows as trainers read them, mapped into memory.

Guarantees: the folder appears whole or not at all (written beside it, then renamed); the fingerprint is the sha256 of
all arrays, and of them alone: equal fingerprints mean equal tokens in equal order. Line i of the original rows (those
of validation and test, as the user's files have them) belongs to row i of the side's arrays; each row of an unrolled
conversation repeats it. Values that JSON does not know (dates and bytes of Parquet) are kept as text. The order of an
epoch depends on the seed and the epoch only, so that all trials of a study see the same batches. Does not know where
rows come from; does not batch, pad or shift.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from meshtune.errors import Fault, InputError, StorageError
from meshtune.trial import DataRef

LAYOUT = 2
READ = (1, 2)  # 1: without the original rows
WITH_ORIGINALS = 2
MANIFEST = "manifest.json"
SIDES = ("train", "validation", "test")
_STALE_SECONDS = 3600.0


@dataclass(frozen=True, eq=False)
class SideArrays:
    """The rows of a side, end to end: row i is `tokens[starts[i]:starts[i + 1]]`, and `trained` likewise."""

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    starts: NDArray[np.int64]


def join(tokens: Sequence[NDArray[np.int32]], trained: Sequence[NDArray[np.bool_]]) -> SideArrays:
    """Rows put end to end."""
    starts = np.cumsum([0, *(len(row) for row in tokens)], dtype=np.int64)
    if not tokens:
        return SideArrays(np.empty(0, np.int32), np.empty(0, np.bool_), starts)
    return SideArrays(np.concatenate(tokens).astype(np.int32), np.concatenate(trained).astype(np.bool_), starts)


def fingerprint(sides: Mapping[str, SideArrays]) -> str:
    """sha256 over the arrays of all sides, in a fixed byte order."""
    content = hashlib.sha256(b"meshtune data 1")
    for name in SIDES:
        side = sides[name]
        for array, kind in ((side.tokens, "<i4"), (side.trained, "|b1"), (side.starts, "<i8")):
            content.update(f"{name} {len(array)} ".encode())
            content.update(np.ascontiguousarray(array, dtype=kind).data)
    return content.hexdigest()


class Damaged(InputError):
    """A file of prepared data is missing, or is not what was written. `what`: where and what, without advice."""

    def __init__(self, path: Path, what: str):
        self.what = f"{path}: {what}"
        super().__init__(Fault(f"{what}: `meshtune prepare STUDY` makes the data again", path))


def file_name(side: str, part: str) -> str:
    """The file of one array."""
    return f"{side}.{part}.npy"


def write(
    folder: Path,
    sides: Mapping[str, SideArrays],
    manifest: Mapping[str, Any],
    texts: Mapping[str, Iterable[str]],
    *,
    anew: bool = False,
) -> None:
    """Write everything, then rename it into place. Raises StorageError; then nothing is left behind.

    Args:
        texts: further files by name, as lines.
        anew: whether damaged data in the folder give way. Else, where another process was faster, its data stay.
    """
    prefix = f".{folder.name}.partial-"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent, prefix)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    except OSError as error:
        raise _storage_error(folder, error) from error
    aside = partial.with_name(f"{partial.name}.damaged")
    try:
        for name, side in sides.items():
            for part in ("tokens", "trained", "starts"):
                with open(partial / file_name(name, part), "wb") as file:
                    np.save(file, getattr(side, part))
                    _flush(file)
        for name, lines in texts.items():
            with open(partial / name, "wb") as file:
                file.writelines(f"{line}\n".encode() for line in lines)
                _flush(file)
        with open(partial / MANIFEST, "wb") as file:
            file.write(json.dumps(manifest, indent=1).encode())
            _flush(file)
        partial.chmod(0o755)  # mkdtemp made it private; a study's folder may be shared
        if anew and folder.exists():
            folder.rename(aside)
        partial.rename(folder)
    except OSError as error:
        if not (folder / MANIFEST).exists():
            raise _storage_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest. Raises Damaged where there is none to be read, InputError where another version wrote it."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        layout = manifest["layout"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(folder, "holds no prepared data (no readable manifest.json)") from error
    if layout not in READ:
        raise InputError(Fault(f"was prepared by another version of meshtune (layout {layout}, not {LAYOUT})", folder))
    return manifest


def open_side(folder: Path, side: str) -> SideArrays:
    """The side's arrays, mapped into memory. Raises Damaged where one is missing or cannot be read."""
    arrays = []
    for part in ("tokens", "trained", "starts"):
        path = folder / file_name(side, part)
        try:
            arrays.append(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
        except (OSError, ValueError, EOFError) as error:
            raise Damaged(path, f"is missing or damaged ({error})") from error
    return SideArrays(*arrays)


def check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise Damaged where the arrays are not those of the manifest's fingerprint. Reads all of them."""
    sides = {side: open_side(folder, side) for side in SIDES}
    found = fingerprint(sides)
    if found != manifest["fingerprint"]:
        expected = manifest["fingerprint"]
        raise Damaged(folder, f"the tokens are damaged (their fingerprint is {found[:12]}, not {expected[:12]})")


def _flush(file: IO[bytes]) -> None:
    """To the disk, so that a full one shows before the folder is renamed into place."""
    file.flush()
    os.fsync(file.fileno())


def _remove_stale(parent: Path, prefix: str) -> None:
    """Remove what killed processes left. Younger ones may belong to a living process."""
    for path in parent.glob(f"{prefix}*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _storage_error(folder: Path, error: OSError) -> StorageError:
    what = error.strerror or str(error)
    return StorageError(f"the prepared data cannot be written to {folder}: {what}. Free space, or use another folder.")


ORIGINAL_SIDES = ("validation", "test")


@dataclass(frozen=True)
class OriginalRow:
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


def original_file(side: str) -> str:
    """The file of a side, in the folder of the prepared data."""
    return f"{side}.rows.jsonl"


def original_rows(folder: Path, side: str) -> list[OriginalRow]:
    """The side's rows, in order. Raises Damaged where they are missing (as in data of meshtune 0.1) or unreadable."""
    path = folder / original_file(side)
    try:
        with open(path, encoding="utf-8") as file:
            return [OriginalRow(**json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(path, f"is missing or damaged ({error})") from error


def check_original_rows(folder: Path, side: str, count: int) -> None:
    """Raise Damaged where the side's rows are not so many, or cannot be read."""
    if (found := len(original_rows(folder, side))) != count:
        raise Damaged(folder / original_file(side), f"is damaged (it has {found:,} rows, not {count:,})")


Side = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one side. `rows[i]` is the row's tokens (int32) and which of them are learned (bool)."""

    arrays: SideArrays

    @classmethod
    def open(cls, ref: DataRef, side: Side) -> Rows:
        """Open a side. Raises InputError where the folder holds other data than `ref` says."""
        folder = Path(ref.folder)
        held = read_manifest(folder)["fingerprint"]
        if held != ref.fingerprint:
            what = (
                f"holds other data than the study was made with (fingerprint {held[:12]}, not {ref.fingerprint[:12]})"
            )
            raise InputError(Fault(what, folder))
        return cls(open_side(folder, side))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.arrays.starts) - 1

    def __getitem__(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens and mask of a row; IndexError beyond the last, so that a loop over the rows ends."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        begin, end = self.arrays.starts[row], self.arrays.starts[row + 1]
        return self.arrays.tokens[begin:end], self.arrays.trained[begin:end]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return len(self.arrays.tokens)

    @property
    def label_tokens(self) -> int:
        """Tokens that the loss counts."""
        return int(np.count_nonzero(self.arrays.trained))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.arrays.starts)


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of n rows in an epoch (from 0): a permutation, the same for the same seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)
