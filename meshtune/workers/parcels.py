"""Files between the coordinator and processes on other machines, through a folder or bucket that all of them reach.

Any URL that fsspec knows (`s3://`, `gs://`, `sftp://`, `local://`). Small files cross as bytes all the same: a bucket
answers slowly. What crosses here is removed once it has come, and the folder of a study with its end; what was on its
way to a process that died stays until then. Credentials are those of fsspec's package for the URL, by environment.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping

from meshtune.errors import Fault, InputError, need
from meshtune.workers.remote_process import Files

SMALL = 1 << 15  # bytes
_MARK = "mark"

Crossing = Mapping[str, bytes | str | None]  # as `Files`; a text: under this name in the folder


class Parcels:
    """Send on one side, receive on the other, once each. Raises OSError where that fails.

    Raises:
        InputError: fsspec does not know the URL, or lacks a package for it.
    """

    def __init__(self, url: str):
        need("files through a URL", "fsspec", extras="ray")
        import fsspec

        self._url = url
        try:
            self._system, self._folder = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            what = f"{url} cannot be used: {error}. Give a URL that fsspec knows, and install its package for it (s3fs)"
            raise InputError(Fault(what, key="worker.files")) from error

    def begin(self) -> None:
        """Make the folder, for the first time. Raises InputError where it cannot be written."""
        try:
            self._system.makedirs(self._folder, exist_ok=True)
            self._system.pipe_file(f"{self._folder}/{_MARK}", b"meshtune")
            self._exchange()
        except Exception as error:  # each protocol has errors of its own
            what = f"{self._url} cannot be written and read: {type(error).__name__}: {error}"
            what += ". Give a URL that this machine and all nodes can write"
            raise InputError(Fault(what, key="worker.files")) from error

    def fault(self) -> str | None:
        """What this machine cannot reach, and why; None where it can."""
        try:
            if self._system.cat_file(f"{self._folder}/{_MARK}") != b"meshtune":
                raise OSError("another file is there")
            self._exchange()
        except Exception as error:
            return f"{self._url} ({type(error).__name__}: {error})"
        return None

    def send(self, files: Files) -> dict[str, bytes | str | None]:
        """What is to cross in place of these files."""
        return {
            name: self._put(content) if len(content or b"") >= SMALL else content for name, content in files.items()
        }

    def receive(self, crossing: Crossing) -> dict[str, bytes | None]:
        """The files again."""
        return {name: self._get(what) if isinstance(what, str) else what for name, what in crossing.items()}

    def end(self) -> None:
        """Remove the folder."""
        with contextlib.suppress(Exception):
            self._system.rm(self._folder, recursive=True)

    def _exchange(self) -> None:
        if self._get(self._put(b"meshtune")) != b"meshtune":
            raise OSError("what was written is not what is read")

    def _put(self, content: bytes | None) -> str:
        name = uuid.uuid4().hex
        self._system.pipe_file(f"{self._folder}/{name}", content)
        return name

    def _get(self, name: str) -> bytes:
        content: bytes = self._system.cat_file(f"{self._folder}/{name}")
        with contextlib.suppress(OSError):
            self._system.rm_file(f"{self._folder}/{name}")
        return content


def sent(parcels: Parcels | None, files: Files) -> Crossing:
    """What crosses; as bytes where there are no parcels."""
    return files if parcels is None else parcels.send(files)


def received(parcels: Parcels | None, crossing: Crossing) -> Files:
    """The files of what crossed."""
    if parcels is not None:
        return parcels.receive(crossing)
    return {name: content for name, content in crossing.items() if not isinstance(content, str)}
