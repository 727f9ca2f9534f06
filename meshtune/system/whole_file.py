"""Files that are there whole or not at all: written beside their place, then renamed into it; and what fails, said."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from meshtune.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Where `path` cannot be written, say so. Raises StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def no_room(error: BaseException | None) -> bool:
    """Whether something failed since the disk took no more: it is full, over its quota, or read-only by now."""
    while error is not None:
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        error = error.__cause__
    return False


def write(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file in place of what stands there. Raises OSError; then nothing is left beside it.

    `private`: only the user who runs this can read it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if private:
            aside.touch()
            aside.chmod(0o600)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):  # the fault that is reported is the first one
            aside.unlink()
        raise


def write_all(folder: Path, texts: Mapping[str, str], what: str) -> None:
    """Write text files by name into a folder, which is made. Raises StorageError; `what` they are is said in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write(folder / name, text)
    except OSError as error:
        raise StorageError(f"{folder}: {what} cannot be written ({error.strerror})") from error
