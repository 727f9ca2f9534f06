"""Trials by files that coordinator and processes both see: `<study>/spool/`. No process need reach another's network.

A file is there whole (it is renamed into its place), or it only grows by whole lines; no file is locked. Each process
has a folder `<name>/`: `hello.json` says what it is, `in/000001.json` and so on are what it is given, `out.jsonl` is
what it says, a sign of life included, and `end` asks it to end. `start.json` says what is evaluated, and in which
session: a coordinator that starts begins a new one, and processes of an older one join it. So nothing that has waited
in a batch system's queue is lost where the coordinator is started again. `beat` is the coordinator's own sign of life:
without it processes save what runs, and end after a while.

`SpoolWorker` is the coordinator's side, `main` the program of a process: `meshtune.workers.spool --spool FOLDER`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meshtune.errors import Fault, InputError, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import whole_file
from meshtune.system.child_start import leave_signals_to_the_coordinator
from meshtune.trial import Decision, Event, Request, to_json
from meshtune.workers import remote_process
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.running import Running, deciding, joining

FOLDER = "spool"  # in the study's folder
BEAT_SECONDS = 10.0
LOOK_SECONDS = 0.2
SILENCE_SECONDS = remote_process.ORPHANED_SECONDS + 120.0  # network disks show a change up to a minute late
WAIT_SECONDS = 3600.0  # that a process waits for a coordinator
LEAVE_SECONDS = 20.0  # that what runs has to save itself after a signal: SLURM kills 30 seconds after the first
SAVE_SECONDS = 60.0  # that what runs has to save itself, once the coordinator is gone
BEAT, LEFT = '{"kind": "Beat"}', '{"kind": "Left"}'


@dataclass(eq=False)
class _Process:
    """One that said hello. `read`: bytes of what it says that were read; `heard`: when it grew."""

    folder: Path
    hello: remote_process.Hello
    heard: float
    read: int = 0
    given: int = 0
    running: Running = field(default_factory=Running)
    suspended: bool = False


class SpoolWorker:
    """The worker interface over a spool.

    Args:
        objective: what is evaluated. spec: what each process is started with. folder: the study's, which all see.

    Subclasses start processes; as it stands, whoever starts the program takes part.
    """

    def __init__(self, objective: ObjectiveSpec, spec: ProcessSpec, folder: Path):
        self._folder = folder.absolute()
        self.spool = self._folder / FOLDER
        self.spool.mkdir(parents=True, exist_ok=True)
        self._session = uuid.uuid4().hex
        self._processes: dict[str, _Process] = {}
        self._refused: set[str] = set()
        self._waiting: list[Event] = []
        self._stopping = False
        self._closed = threading.Event()
        for old in self.spool.iterdir():  # of an earlier session; its processes say hello again
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
        mark = self.spool / "mark"
        mark.touch()
        self._beat()
        start = remote_process.start_of(objective, spec, self._folder, str(mark.relative_to(self._folder)))
        whole_file.write(self.spool / "start.json", json.dumps({"session": self._session, **start}))
        self._beating = threading.Thread(target=self._beat_on, daemon=True)
        self._beating.start()

    def free(self) -> int:
        """Processes that are there and have nothing to do."""
        return sum(not process.running for process in self._processes.values())

    def submit(self, requests: Sequence[Request]) -> None:
        """Start requests together in one process, while one is free."""
        process = next((process for process in self._processes.values() if not process.running), None)
        if process is None:
            raise WorkerError("requests were submitted while no process was free")
        process.running = Running(requests)
        process.heard = time.monotonic()
        self._give(process, [json.loads(to_json(request)) for request in requests])

    def events(self, timeout: float) -> list[Event]:
        """Progress and outcomes that have come, waiting up to `timeout` seconds for the first."""
        until = time.monotonic() + timeout
        while True:
            self.look()
            if self._waiting or time.monotonic() >= until:
                break
            time.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))
        events, self._waiting = self._waiting, []
        return events

    def decide(self, decision: Decision) -> None:
        """Tell what waits at a rung; what is over hears nothing."""
        for process in self._processes.values():
            if process.running.is_pack(decision.pack, decision.attempt):
                self._give(process, deciding(decision))

    def join(self, pack: int, request: Request) -> bool:
        """Have one more evaluated with a pack that runs; False: that attempt of it is over."""
        for process in self._processes.values():
            if process.running.join(pack, request):
                self._give(process, joining(pack, request))
                return True
        return False

    def suspend(self, seconds: float) -> None:
        """Ask what runs to save where it is and to end; give it up after so many seconds and a moment."""
        self._stopping = True
        busy = [process for process in self._processes.values() if process.running]
        for process in busy:
            self._give(process, seconds)
        until = time.monotonic() + seconds + 2 * BEAT_SECONDS
        # One that has left meanwhile says no more.
        while any(p.folder.name in self._processes and not p.suspended for p in busy) and time.monotonic() < until:
            self.look()
            time.sleep(LOOK_SECONDS)
        self.close()

    def close(self) -> None:
        """Ask all processes to end."""
        self._closed.set()
        for process in self._processes.values():
            with contextlib.suppress(OSError):
                (process.folder / "end").touch()
        self._processes = {}
        with contextlib.suppress(FileNotFoundError):
            (self.spool / "start.json").unlink()

    def look(self) -> None:
        """Read what processes say, and find out which have come and gone. Raises InputError."""
        for hello in self.spool.glob("*/hello.json"):
            if hello.parent.name not in self._processes and hello.parent.name not in self._refused:
                self._welcome(hello)
        for name, process in list(self._processes.items()):
            self._read(process)
            if name in self._processes and time.monotonic() - process.heard > SILENCE_SECONDS:
                self.lose(process, f"gave no sign of life for {SILENCE_SECONDS:g} s")

    def lose(self, process: _Process, why: str) -> None:
        """Give a process up: what runs in it has crashed."""
        del self._processes[process.folder.name]
        self._refused.add(process.folder.name)
        with contextlib.suppress(OSError):
            (process.folder / "end").touch()
        if not self._stopping:
            words = f"the process on {process.hello.node} {why}"
            self._waiting += remote_process.lost(process.running, words)

    # -- inside

    def _welcome(self, path: Path) -> None:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("session") != self._session:
            return
        hello = remote_process.hello_from(fields)
        if (fault := self._fault(hello)) is None:
            self._processes[path.parent.name] = _Process(path.parent, hello, time.monotonic())
            return
        self._refused.add(path.parent.name)
        (path.parent / "end").touch()
        if not self._processes:
            raise InputError(Fault(fault, key="worker"))
        print(f"meshtune: a process is not used: {fault}", file=sys.stderr, flush=True)

    def _fault(self, hello: remote_process.Hello) -> str | None:
        if hello.shared:
            return remote_process.fault(hello)
        return f"{hello.node} does not see {self._folder}: put the study into a folder that all nodes share"

    def _give(self, process: _Process, message: object) -> None:
        process.given += 1
        whole_file.write(process.folder / "in" / f"{process.given:06}.json", json.dumps(message))

    def _read(self, process: _Process) -> None:
        try:
            with (process.folder / "out.jsonl").open("rb") as said:
                said.seek(process.read)
                data = said.read()
        except OSError:  # not there yet, or a network disk's hiccup: silence is counted
            return
        whole = data[: data.rfind(b"\n") + 1]
        process.read += len(whole)
        if whole:
            process.heard = time.monotonic()
        for line in whole.decode().splitlines():
            if line == LEFT:
                self.lose(process, "was asked to end by its batch system")
                return
            self._pass_on(process, line)

    def _pass_on(self, process: _Process, line: str) -> None:
        if line == BEAT:
            return
        if line == remote_process.SUSPENDED:
            process.suspended = True
            return
        if (event := process.running.event(line)) is not None:
            self._waiting.append(event)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            whole_file.write(self.spool / "beat", f"{self._session} {time.monotonic()}")

    def _beat_on(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self._beat()


def main() -> None:
    """Take part in a spool's sessions until one asks for the end, or none comes for an hour."""
    leave_signals_to_the_coordinator()
    leaving = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # the job's end is near, or it is preempted
        signal.signal(kind, lambda *_: leaving.set())
    spool = Path(sys.argv[sys.argv.index("--spool") + 1])
    waiting = time.monotonic()
    session = ""
    while time.monotonic() - waiting < WAIT_SECONDS and not leaving.is_set():
        start = _start(spool)
        if start is None or start["session"] == session:
            time.sleep(1.0)
            continue
        session = start.pop("session")
        if _take_part(spool, session, start, leaving):
            return
        waiting = time.monotonic()


def _start(spool: Path) -> dict[str, Any] | None:
    try:
        start: dict[str, Any] = json.loads((spool / "start.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return start


def _name() -> str:
    """Of this process: its job, as submitit numbers it, its rank in it, and its own number."""
    of = os.environ.get
    array, task = of("SLURM_ARRAY_JOB_ID"), of("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else of("SLURM_JOB_ID") or of("SUBMITIT_LOCAL_JOB_ID")
    return f"{job or socket.gethostname().partition('.')[0]}.{of('SLURM_PROCID', '0')}-{os.getpid()}"


def _take_part(spool: Path, session: str, start: dict[str, Any], leaving: threading.Event) -> bool:
    """Evaluate what this session gives. True: the end; False: the session is silent, or another has begun.

    What runs when the process is `leaving` saves where it is, for the attempt that will go on from there.
    """
    name = _name()
    folder = spool / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    process = remote_process.RemoteProcess(remote_process.start_from({**start, "name": name}))
    out = (folder / "out.jsonl").open("a", encoding="utf-8")
    try:
        hello = {"session": session, **asdict(process.hello())}
        whole_file.write(folder / "hello.json", json.dumps(hello))
        taken, beat, changed, said = 0, "", time.monotonic(), -math.inf
        while True:
            while (message := folder / "in" / f"{taken + 1:06}.json").is_file():
                process.take(message.read_text(encoding="utf-8"))
                taken += 1
            lines, _ = process.give(1.0)
            if time.monotonic() - said > BEAT_SECONDS:
                lines.append(BEAT)
                said = time.monotonic()
            if lines:
                out.write("".join(line + "\n" for line in lines))
                out.flush()
                os.fsync(out.fileno())
            if leaving.is_set():
                process.take(json.dumps(LEAVE_SECONDS))
                lines, _ = process.give(LEAVE_SECONDS)  # what ended by itself meanwhile is not lost
                out.write("".join(line + "\n" for line in (*lines, LEFT)))
                return True
            if (folder / "end").exists() or not folder.exists():
                return (folder / "end").exists()
            with contextlib.suppress(OSError):
                if (now := (spool / "beat").read_text(encoding="utf-8")) != beat:
                    beat, changed = now, time.monotonic()
            if not beat.startswith(session) or time.monotonic() - changed > remote_process.ORPHANED_SECONDS:
                process.take(json.dumps(SAVE_SECONDS))
                process.give(SAVE_SECONDS)
                return False
    finally:
        out.close()
        process.end()


if __name__ == "__main__":
    main()
