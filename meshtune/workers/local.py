"""Trials on this machine: one process a visible device, each holding its own objective; on a CPU one, or as asked.

What is submitted as one runs together in one process. One that dies gives its trials the ending `crashed` (with its
log's last words) and is replaced. So is one that does not end what it was given in time, counted from its first word
about it, that says no word about it for an hour, or that gives no sign of life for minutes before. Processes see
one GPU each (CUDA_VISIBLE_DEVICES), live in sessions of their own, and end with the coordinator.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshtune.errors import WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start
from meshtune.trial import Ending, Event, Outcome, Request, from_json, to_json
from meshtune.workers.child import BEAT, LOST, READY, SUSPEND

START_ATTEMPTS = 3
GRACE_SECONDS = 60.0  # past a request's timeout: the objective should have ended it by itself
SILENCE_SECONDS = 300.0  # without a sign of life before the first word: a slow disk may hold up an import for minutes
LOAD_SECONDS = 3600.0  # for the first word about a request: loading a base is no part of its timeout, and may be slow


@dataclass(frozen=True)
class Place:
    """Where one process runs: a torch device, the environment that makes it the only one seen, CPU threads."""

    device: str
    environment: Mapping[str, str]
    threads: int | None


@dataclass
class _Child:
    place: Place
    log: Path
    process: subprocess.Popen[bytes]
    pipe: int
    ready: bool = False
    text: bytes = b""
    running: dict[int, Request] = field(default_factory=dict)
    begun: bool = False  # whether it has told anything of what runs
    deadline: float = math.inf
    heard: float = field(default_factory=time.monotonic)  # when it gave a sign of life
    lost: str = ""  # why it ends, as it says itself


class LocalWorker:
    """The worker seam over local processes.

    Args:
        spec: the objective. places: one a process. folder: the study's; logs go to `<folder>/logs/`.
        grace: seconds past a request's timeout before its process is killed. load: seconds for its first word.
        silence: seconds without a sign of life before that.

    Raises:
        WorkerError: a process keeps dying before it is ready.
    """

    def __init__(
        self,
        spec: ObjectiveSpec,
        places: Sequence[Place],
        folder: Path,
        *,
        grace: float = GRACE_SECONDS,
        load: float = LOAD_SECONDS,
        silence: float = SILENCE_SECONDS,
    ):
        self._spec = spec
        self._grace, self._load, self._silence = grace, load, silence
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._starts = 0
        self._waiting: deque[Event] = deque()
        self._children = [self._start(place, index) for index, place in enumerate(places)]

    @property
    def slots(self) -> int:
        """Processes: what was submitted as one takes one."""
        return len(self._children)

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [child.process.pid for child in self._children]

    def free(self) -> int:
        """Processes that have nothing to do."""
        return sum(not child.running for child in self._children)

    def submit(self, requests: Sequence[Request]) -> None:
        """Start requests together in one process, while one is free."""
        child = next((child for child in self._children if not child.running), None)
        if child is None:
            raise WorkerError("requests were submitted while no process was free")
        child.running = {request.trial: request for request in requests}
        child.begun, child.heard = False, time.monotonic()
        child.deadline = child.heard + self._load
        self._send(child, [json.loads(to_json(request)) for request in requests])

    def events(self, timeout: float) -> list[Event]:
        """Progress and outcomes that have come, waiting up to `timeout` seconds for the first."""
        until = time.monotonic() + timeout
        while True:  # a sign of life is no event
            left = 0.0 if self._waiting else max(0.0, until - time.monotonic())
            for key, _ in self._selector.select(left) if self._children else ():
                if not self._read(key.data):
                    self._died(key.data)
            self._end_overdue()
            if self._waiting or not self._children or time.monotonic() >= until:
                break
        events = list(self._waiting)
        self._waiting.clear()
        return events

    def stop(self, trials: Iterable[int]) -> None:
        """Cancel running requests and what was submitted with them: no outcomes, and their processes are free again."""
        wanted = set(trials)
        for index, child in enumerate(self._children):
            if wanted & set(child.running):
                self._kill(child)
                self._children[index] = self._start(child.place, index)

    def suspend(self, seconds: float) -> None:
        """Ask what runs to save where it is and to end; kill it after so many seconds.

        What ended by itself meanwhile is in the next `events`; only that and `close` may follow.
        """
        for child in self._children:
            self._send(child, SUSPEND)
        deadline = time.monotonic() + seconds
        while self._children and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if not self._read(key.data):  # it has ended
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        key.data.process.wait(max(0.0, deadline - time.monotonic()))
                    self._kill(key.data)
                    self._children.remove(key.data)
        for child in self._children:
            self._kill(child)
        self._children = []

    def close(self) -> None:
        """End all processes and wait for them."""
        for child in self._children:
            self._kill(child)
        self._children = []
        self._selector.close()

    # -- inside

    def _start(self, place: Place, index: int) -> _Child:
        logs = self._folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"worker-{index}.log"
        read, write = os.pipe()
        with log.open("ab") as file:
            process = subprocess.Popen(
                child_start.command("meshtune.workers.child", "--fd", str(write)),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=(write,),
                start_new_session=True,  # keeps the terminal's Ctrl-C away
                env={**os.environ, **place.environment},
            )
        os.close(write)
        os.set_blocking(read, False)
        child = _Child(place, log, process, read)
        self._selector.register(read, selectors.EVENT_READ, child)
        self._send(
            child,
            {
                "objective": {"kind": self._spec.kind, "spec": self._spec.spec},
                "device": place.device,
                "threads": place.threads,
            },
        )
        return child

    def _end_overdue(self) -> None:
        """Replace processes that run past what they were given, or are frozen."""
        for index, child in enumerate(self._children):
            now = time.monotonic()
            if child.running and not child.begun and now > child.heard + self._silence:
                message = f"the process gave no sign of life for {self._silence:g} s, as a frozen one, and was killed"
                self._replace(index, Ending.CRASHED, message)
            elif child.running and now > child.deadline and child.begun:
                self._replace(index, Ending.TIMED_OUT, "the process did not end at the timeout and was killed")
            elif child.running and now > child.deadline:
                message = f"the process said nothing for {self._load:g} s, as one that cannot load, and was killed"
                self._replace(index, Ending.CRASHED, message)

    def _send(self, child: _Child, message: object) -> None:
        if child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has died: reading its pipe will tell
                child.process.stdin.write(json.dumps(message).encode() + b"\n")
                child.process.stdin.flush()

    def _read(self, child: _Child) -> bool:
        """Take what a process tells; False where its pipe has ended."""
        data = os.read(child.pipe, 1 << 20)
        if not data:
            return False
        *lines, child.text = (child.text + data).split(b"\n")
        child.heard = time.monotonic()
        for line in lines:
            if line.decode() == READY:
                child.ready, self._starts = True, 0
            if line.decode() in (READY, BEAT):
                continue
            fields = json.loads(line)
            if fields["kind"] == LOST:
                child.lost = fields["message"]
                continue
            event = from_json(line.decode())
            if isinstance(event, Request) or event.trial not in child.running:
                continue
            if not child.begun:  # its clock has just started
                timeout = child.running[event.trial].timeout
                child.begun = True
                child.deadline = math.inf if timeout is None else time.monotonic() + timeout + self._grace
            if isinstance(event, Outcome):
                del child.running[event.trial]
            self._waiting.append(event)
        return True

    def _died(self, child: _Child) -> None:
        code = child.process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = " | ".join(child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        message = f"the worker process {how}" + (" (out of memory?)" if code == -9 else "")
        message += f"; its log {child.log} ends: {words}" if words else f"; its log {child.log} is empty"
        if child.lost:
            message = f"the GPU failed, and the process was replaced: {child.lost}; see its log {child.log}"
        if not child.ready:
            self._starts += 1
            if self._starts >= START_ATTEMPTS:
                raise WorkerError(f"worker processes keep dying at their start: {message}")
        self._replace(self._children.index(child), Ending.CRASHED, message)

    def _replace(self, index: int, ending: Ending, message: str) -> None:
        child = self._children[index]
        for request in child.running.values():
            self._waiting.append(Outcome(request.trial, request.attempt, ending, message=message))
        self._kill(child)
        self._children[index] = self._start(child.place, index)

    def _kill(self, child: _Child) -> None:
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()
        if child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
