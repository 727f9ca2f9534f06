"""Trials on this machine: one process a visible device, each holding its own objective; on a CPU one, or as asked.

What is submitted as one runs together in one process. One that dies gives its trials the ending `crashed` (with its
log's last words) and is replaced. So is one that does not end what it was given in time, counted from its first word
about it, that says no word about it for an hour, or that gives no sign of life for minutes. Processes see one GPU
each, or those of their trial (CUDA_VISIBLE_DEVICES), live in sessions of their own, and end with the coordinator.
"""

from __future__ import annotations

import contextlib
import json
import math
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from meshtune.errors import WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start
from meshtune.system.child_start import BEAT
from meshtune.system.children import Child
from meshtune.trial import Decision, Ending, Event, Outcome, Progress, Request, to_json
from meshtune.workers.child import LOST, READY, SUSPEND
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.running import Running, deciding, joining

START_ATTEMPTS = 3
GRACE_SECONDS = 60.0  # past a request's timeout: the objective should have ended it by itself
SILENCE_SECONDS = 300.0  # without a sign of life: a slow disk may hold up an import for minutes
LOAD_SECONDS = 3600.0  # for the first word about a request: loading a base is no part of its timeout, and may be slow
LOOK_SECONDS = 1.0  # between looks at the clock, while nothing comes


class Clock:
    """Seconds in which this process ran: where the machine slept, or the process was stopped, it stands still.

    Children stand still then too, and are not to be blamed for it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._looked = time.monotonic()

    def look(self) -> None:
        """Go on by the time since the last look, by few seconds at most."""
        before, self._looked = self._looked, time.monotonic()
        self.now += min(self._looked - before, 5 * LOOK_SECONDS)


class Process:
    """A child process and what it was given. `place`: its devices for people."""

    def __init__(self, process_spec: ProcessSpec, objective: ObjectiveSpec, log: Path, clock: Clock, place: str):
        self.spec, self.log, self._clock, self._place = process_spec, log, clock, place
        log.parent.mkdir(parents=True, exist_ok=True)
        command = child_start.command("meshtune.workers.child")
        self.child = Child(command, log=log, environment=process_spec.environment)
        self.ready = False
        self.lost = ""  # why it ends, as it says itself
        self.running = Running()
        self.begun = False  # whether it has said anything about what runs
        self.deadline = math.inf
        self.heard = clock.now  # when it gave a sign of life
        fixed = {name: getattr(process_spec, name) for name in ("device", "threads", "devices", "sharded")}
        self.send({"objective": asdict(objective), **fixed})

    def send(self, message: object) -> None:
        """A line to it."""
        with contextlib.suppress(BrokenPipeError):  # it has died: the end of its pipe says so
            self.child.send(message)

    def begin(self, requests: Sequence[Request], load: float) -> None:
        """Give it requests; `load`: seconds for its first word."""
        self.running = Running(requests)
        self.begun, self.heard = False, self._clock.now
        self.deadline = self._clock.now + load
        self.send([json.loads(to_json(request)) for request in requests])

    def join(self, pack: int, request: Request, grace: float) -> bool:
        """Give it one more request beside what runs; False: that attempt of the pack is over."""
        if not self.running.join(pack, request):
            return False
        if self.begun and request.timeout is not None:
            self.deadline = max(self.deadline, self._clock.now + request.timeout + grace)
        self.send(joining(pack, request))
        return True

    def read(self, grace: float) -> list[Event] | None:
        """The events that it gives, of requests that run; None where its pipe has ended."""
        lines = self.child.read()
        if lines is None:
            return None
        self.heard = self._clock.now
        found: list[Event] = []
        for line in lines:
            kind = json.loads(line)["kind"]
            self.ready |= kind == READY
            if kind == LOST:
                self.lost = json.loads(line)["message"]
            if kind in (READY, BEAT, LOST):
                continue
            timeout = next((request.timeout for request in self.running.requests.values()), None)  # all have the same
            event = self.running.event(line)
            if event is None:
                continue
            if not self.begun and isinstance(event, Progress | Outcome):  # its clock has just started
                self.begun = True
                self.deadline = math.inf if timeout is None else self._clock.now + timeout + grace
            if isinstance(event, Progress):
                event = replace(event, place=self._place)
            found.append(self._with_log(event) if isinstance(event, Outcome) else event)
        return found

    def _with_log(self, outcome: Outcome) -> Outcome:
        """A crash says where its traceback stands."""
        told = outcome.ending is not Ending.CRASHED or not outcome.retry or str(self.log.parent) in outcome.message
        return outcome if told else replace(outcome, message=f"{outcome.message} (see {self.log})")

    def overdue(self, silence: float, load: float) -> tuple[Ending, str] | None:
        """How what runs has ended, where the process is frozen or runs past what it was given."""
        if self.running and self._clock.now > self.heard + silence:
            message = f"the process gave no sign of life for {silence:g} s, as a frozen one, and was killed"
            return Ending.CRASHED, message
        if not self.running or self._clock.now <= self.deadline:
            return None
        if self.begun:
            return Ending.TIMED_OUT, "the process did not end at the timeout and was killed"
        return Ending.CRASHED, f"the process said nothing for {load:g} s, as one that cannot load, and was killed"

    def death(self) -> str:
        """How it died, once its pipe has ended, with the last words of its log."""
        code = self.child.wait()
        if self.lost:
            return f"{self.lost}; the process was replaced; see its log {self.log}"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = " | ".join(self.child.words()[-3:])
        message = f"the worker process {how}" + (" (out of memory?)" if code == -9 else "")
        return message + (f"; its log {self.log} ends: {words}" if words else f"; its log {self.log} is empty")


class LocalWorker:
    """The worker interface over local processes.

    Args:
        objective: what they evaluate. processes: what each is started with. folder: the study's; logs go to
            `<folder>/logs/`.
        log: how the names of their logs begin. host: of this machine, where the coordinator is on another one.
        grace: seconds past a request's timeout before its process is killed. load: seconds for its first word.
        silence: seconds without a sign of life.

    Raises:
        WorkerError: a process keeps dying before it is ready.
    """

    def __init__(
        self,
        objective: ObjectiveSpec,
        processes: Sequence[ProcessSpec],
        folder: Path,
        *,
        log: str = "worker",
        host: str = "",
        grace: float = GRACE_SECONDS,
        load: float = LOAD_SECONDS,
        silence: float = SILENCE_SECONDS,
    ):
        self._objective = objective
        self._grace, self._load, self._silence = grace, load, silence
        self._folder, self._log, self._host = folder, log, host
        self._clock = Clock()
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self._waiting: deque[Event] = deque()
        self._children = [self._start(spec, index) for index, spec in enumerate(processes)]

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [process.child.pid for process in self._children]

    def free(self) -> int:
        """Processes that have nothing to do."""
        return sum(not process.running for process in self._children)

    def submit(self, requests: Sequence[Request]) -> None:
        """Start requests together in one process, while one is free."""
        process = next((process for process in self._children if not process.running), None)
        if process is None:
            raise WorkerError("requests were submitted while no process was free")
        process.begin(requests, self._load)

    def events(self, timeout: float) -> list[Event]:
        """Progress and outcomes that have come, waiting up to `timeout` seconds for the first."""
        until = time.monotonic() + timeout
        while True:  # a sign of life is no event
            left = 0.0 if self._waiting else max(0.0, until - time.monotonic())
            found = self._selector.select(min(left, LOOK_SECONDS)) if self._children else ()
            self._clock.look()
            for key, _ in found:
                if not self._read(key.data):
                    self._died(key.data)
            for process in list(self._children):
                if ended := process.overdue(self._silence, self._load):
                    self._replace(process, *ended)
            if self._waiting or not self._children or time.monotonic() >= until:
                break
        events = list(self._waiting)
        self._waiting.clear()
        return events

    def decide(self, decision: Decision) -> None:
        """Tell what waits at a rung; what is over hears nothing."""
        for process in self._children:
            if process.running.is_pack(decision.pack, decision.attempt):
                process.send(deciding(decision))

    def join(self, pack: int, request: Request) -> bool:
        """Have one more evaluated with a pack that runs; False: that attempt of it is over."""
        return any(process.join(pack, request, self._grace) for process in self._children)

    def suspend(self, seconds: float) -> None:
        """Ask what runs to save where it is and to end; kill it after so many seconds.

        What ended by itself meanwhile is in the next `events`; only that and `close` may follow.
        """
        for process in self._children:
            process.send(SUSPEND)
        deadline = time.monotonic() + seconds
        while self._children and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if not self._read(key.data):  # it has ended
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        key.data.child.wait(max(0.0, deadline - time.monotonic()))
                    self._kill(key.data)
                    self._children.remove(key.data)
        self._kill_all()

    def close(self) -> None:
        """End all processes and wait for them."""
        self._kill_all()
        self._selector.close()

    # -- inside

    def _start(self, spec: ProcessSpec, index: int) -> Process:
        place = f"{self._host} {spec.place(index)}".strip()
        log = self._folder / "logs" / f"{self._log}-{index}.log"
        process = Process(spec, self._objective, log, self._clock, place)
        self._selector.register(process.child, selectors.EVENT_READ, process)
        return process

    def _read(self, process: Process) -> bool:
        """Take what a process says; False where its pipe has ended."""
        events = process.read(self._grace)
        self._failed_starts = 0 if process.ready else self._failed_starts
        self._waiting += events or ()
        return events is not None

    def _died(self, process: Process) -> None:
        message = process.death()
        if not process.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise WorkerError(f"worker processes keep dying at their start: {message}")
        self._replace(process, Ending.CRASHED, message)

    def _replace(self, process: Process, ending: Ending, message: str) -> None:
        ended = process.running.requests.values()
        self._waiting += (Outcome(one.trial, one.attempt, ending, message=message) for one in ended)
        self._kill(process)
        index = self._children.index(process)
        self._children[index] = self._start(process.spec, index)

    def _kill(self, process: Process) -> None:
        self._selector.unregister(process.child)
        process.child.close()

    def _kill_all(self) -> None:
        for process in self._children:
            self._kill(process)
        self._children = []
