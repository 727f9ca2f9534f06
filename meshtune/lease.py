"""One coordinator a study: a lease in the study's folder that names its holder (host, process, start time).

A second coordinator is refused with the holder's name; a dead holder's lease is taken over. On the same host the
process table decides; from another host the file's age does (the holder touches it). Nothing is locked for readers.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from meshtune.errors import StudyBusy

BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # another host's clock and disk may lag


@dataclass(frozen=True)
class Holder:
    """Who holds a study. `start` identifies the process beyond its number, which the system reuses."""

    host: str
    pid: int
    start: str
    since: str


def holder(folder: Path) -> Holder | None:
    """The living coordinator of the study in `folder`, or None."""
    path = folder / "lease.json"
    try:
        held = Holder(**json.loads(path.read_text(encoding="utf-8")))
        age = time.time() - path.stat().st_mtime
    except (FileNotFoundError, ValueError, TypeError):
        return None
    if held.host == platform.node():
        return held if _start_of(held.pid) == held.start else None
    return held if age < STALE_SECONDS else None


@contextlib.contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold the study in `folder`. Raises StudyBusy where another living coordinator does."""
    path = folder / "lease.json"
    me = Holder(platform.node(), os.getpid(), _start_of(os.getpid()), time.strftime("%Y-%m-%d %H:%M:%S"))
    _take(folder, path, me)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        path.unlink(missing_ok=True)


def _take(folder: Path, path: Path, me: Holder) -> None:
    mine = folder / f"lease.{me.host}.{me.pid}"
    mine.write_text(json.dumps(asdict(me)), encoding="utf-8")
    try:
        for _ in range(10):
            try:
                os.link(mine, path)  # atomic, on network disks too: fails where the name exists
                return
            except FileExistsError:
                if other := holder(folder):
                    raise StudyBusy(
                        f"{folder}: the study is held by process {other.pid} on {other.host}, running since"
                        f" {other.since}. Wait for it, or end it with `meshtune stop {folder}`; `meshtune status`"
                        " shows where it stands."
                    ) from None
                _remove_dead(path, mine)
        raise StudyBusy(f"{folder}: other coordinators are taking the study over at this moment. Try again.")
    finally:
        mine.unlink(missing_ok=True)


def _remove_dead(path: Path, mine: Path) -> None:
    """Move a dead lease away. Two that try at once: one may have moved the other's fresh lease, so put that back."""
    moved = mine.with_suffix(".dead")
    try:
        dead = path.read_bytes()
        os.rename(path, moved)
    except FileNotFoundError:
        return
    if moved.read_bytes() != dead:
        with contextlib.suppress(FileExistsError):
            os.link(moved, path)
    moved.unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a beat missed on a slow disk is made up by the next
            os.utime(path)


def _start_of(pid: int) -> str:
    """When a process started, as the system tells it; an empty string where there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()
