"""One coordinator a study: a lease in the study's folder that names its holder (host, process, start time).

A second coordinator is refused with the holder's name; a dead holder's lease is taken over. Where the holder shares our
process table, that decides. For any other, on another host or in another container, the lease's age does: its holder
touches it every 15 seconds. Clocks of two hosts are not compared for a takeover: the one that wants the lease watches
it for two minutes by its own clock, and takes it where nobody touched it. A holder that lost its lease in this way,
after a long sleep or an outage of the disk, learns of it before it writes again (`Lease.check`).

No file locks are used, which network disks do not always keep: a lease is taken by a hard link, or by an exclusive
creation where the disk has no links. Nothing is locked for readers.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from meshtune.errors import LeaseLost, StudyBusy
from meshtune.system import whole_file

NAME = "lease.json"
BEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # a network disk may lag, and show an old file for a minute
UNREADABLE_SECONDS = 3.0  # a lease that is being written on a disk without hard links


@dataclass(frozen=True)
class Holder:
    """Who holds a study.

    `start` identifies the process beyond its number, which the system reuses; `table` the process table that the number
    belongs to: two containers on one host, or two hosts of one name, have a process 7 each.
    """

    host: str
    pid: int
    start: str
    since: str
    table: str = ""


class Lease:
    """A lease that is held.

    Raises:
        LeaseLost: `check` finds that another coordinator has taken the study over: nothing may be written any more.
    """

    def __init__(self, path: Path, me: Holder):
        self._path = path
        self._me = me
        self._taken_by: Holder | None = None

    def check(self) -> None:
        """See the class. Reads one small file."""
        try:
            other = self._taken_by or _read(self._path)
        except OSError:  # the disk is away: what would be written next meets that too
            return
        if other == self._me:
            return
        who = f"process {other.pid} on {other.host}" if other is not None else "another process"
        raise LeaseLost(
            f"{self._path.parent}: {who} has taken this study over, since this one gave no sign of life for minutes"
            " (was it asleep, or cut off from the disk?). It has written nothing since, and ends. The study goes on"
            " there; `meshtune status` shows where it stands."
        )

    def touch(self) -> None:
        """Show that the holder lives, unless another one has taken the lease."""
        with contextlib.suppress(OSError):  # a beat missed on a slow disk is made up by the next
            other = _read(self._path)
            if other is not None and other != self._me:
                self._taken_by = other
            else:
                os.utime(self._path)

    def release(self) -> None:
        """Give it back, where it is still ours."""
        with contextlib.suppress(OSError):
            if _read(self._path) == self._me:
                self._path.unlink()


def holder(folder: Path) -> Holder | None:
    """The living coordinator of the study in `folder`, or None: for readers, who do not wait.

    Of a holder elsewhere the lease's age is compared with our clock; a clock that runs wrong by minutes shows a living
    one as gone, never a dead one as living for long.
    """
    path = folder / NAME
    held = _read(path)
    if held is None:
        return None
    if same_table(held):
        return held if lives(held) else None
    with contextlib.suppress(FileNotFoundError):
        return held if abs(time.time() - path.stat().st_mtime) < STALE_SECONDS else None
    return None


def elsewhere(folder: Path) -> Holder | None:
    """The holder in a lease whose life our process table cannot tell: taking it may take minutes."""
    held = _read(folder / NAME)
    return held if held is not None and not same_table(held) else None


@contextlib.contextmanager
def lease(folder: Path, *, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS) -> Iterator[Lease]:
    """Hold the study in `folder`; the holder touches the lease every `beat` seconds, and one that did not for `stale`
    seconds is taken for dead. Raises StudyBusy where another living coordinator holds it, StorageError where the
    lease cannot be written.
    """
    me = this_process()
    _take(folder, folder / NAME, me, stale)
    held = Lease(folder / NAME, me)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(held, beat, ended), daemon=True)
    beats.start()
    try:
        yield held
    finally:
        ended.set()
        beats.join()
        held.release()


def _beat(held: Lease, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds):
        held.touch()


def _take(folder: Path, path: Path, me: Holder, stale: float) -> None:
    mine = folder / f"lease.{me.host}.{me.pid}.{secrets.token_hex(4)}"
    try:
        with whole_file.writing(mine):
            mine.write_text(json.dumps(asdict(me)), encoding="utf-8")
        for _ in range(10):
            if _placed(mine, path):
                return
            found = _content(path)
            if _lives(path, stale):
                raise _busy(folder, _read(path))
            _remove_dead(path, found, mine)
        raise StudyBusy(f"{folder}: other coordinators are taking the study over at this moment. Try again.")
    finally:
        with contextlib.suppress(OSError):  # the first fault is the one that is reported
            mine.unlink()


def _placed(mine: Path, path: Path) -> bool:
    """Give our file the lease's name, where nobody has it: a link is atomic, on network disks too."""
    try:
        os.link(mine, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # no hard links here
        return _created(path, mine.read_bytes())


def _created(path: Path, content: bytes) -> bool:
    """Make the file where there is none; for a moment it is empty."""
    try:
        with path.open("xb") as file:
            file.write(content)
        return True
    except FileExistsError:
        return False


def _lives(path: Path, stale: float) -> bool:
    """Whether the lease's holder lives. Of one that our process table does not know, a touch is waited for."""
    held = _read(path)
    if held is not None and same_table(held):
        return lives(held)
    before = _touched(path)
    began = time.monotonic()
    while before is not None:
        time.sleep(min(0.5, stale / 10))
        if (now := _touched(path)) != before:
            return now is not None and _read(path) is not None
        patience = stale if _read(path) is not None else min(stale, UNREADABLE_SECONDS)
        if time.monotonic() - began > patience:
            return False
    return False


def _touched(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    return None


def _content(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _remove_dead(path: Path, dead: bytes | None, mine: Path) -> None:
    """Move a dead lease away. Two that try at once: one may have moved the other's fresh lease, so put that back."""
    moved = mine.with_name(f"{mine.name}.dead")
    try:
        os.rename(path, moved)
    except FileNotFoundError:
        return
    if moved.read_bytes() != dead:
        _placed(moved, path)
    moved.unlink(missing_ok=True)


def _busy(folder: Path, other: Holder | None) -> StudyBusy:
    who = f"process {other.pid} on {other.host}, running since {other.since}" if other else "another process"
    if other is not None and same_table(other) and _stands_still(other.pid):
        return StudyBusy(
            f"{folder}: the study is held by {who}, which stands still (SIGSTOP, or Ctrl-Z in its terminal). Let it go"
            f" on with `kill -CONT {other.pid}`, or end it with `kill -KILL {other.pid}`: nothing recorded is lost."
        )
    return StudyBusy(
        f"{folder}: the study is held by {who}. Wait for it, or end it with `meshtune stop {folder}`;"
        " `meshtune status` shows where it stands."
    )


def _read(path: Path) -> Holder | None:
    """Who a lease names; None where there is none or it cannot be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def this_process() -> Holder:
    """This process as a holder."""
    return Holder(platform.node(), os.getpid(), _start_of(os.getpid()), time.strftime("%Y-%m-%d %H:%M:%S"), _table())


def lives(held: Holder) -> bool:
    """Whether a holder of our process table lives."""
    return _start_of(held.pid) == held.start


def same_table(held: Holder) -> bool:
    """Whether our process table tells whether a holder lives."""
    return held.host == platform.node() and held.table == _table()


def _table() -> str:
    """What names the process table that this process is in: the boot of the system and the container's part of it."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _stands_still(pid: int) -> bool:
    """Whether a process was stopped by a signal (Linux)."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] in "Tt"
    return False


def _start_of(pid: int) -> str:
    """When a process started, as the system tells it; an empty string where there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()
