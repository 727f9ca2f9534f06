"""The program that speaks with a Ray cluster: `meshtune.workers.ray_driver`, a child of the coordinator.

A program of its own, since Ray prints what it likes, takes signals for itself, and ends its process where the cluster's
head is lost; the coordinator goes on. Ray Core, not Ray Tune: an actor on a node holds a process there
(`remote_process.py`). Ray restarts no actor. Where one dies, does not answer, or its node is gone, its trials end as
`crashed` with words, and a new actor is asked for, on whatever node there is. Answers of an actor that was given up are
dropped. Where the number of processes is not given, nodes that join are used. All actors end with this program, and it
ends with its input.

Standard input brings JSON lines: first the worker's section, to say what the nodes have, as often as that is asked; the
same program then holds the processes, so that a study connects once. Then what is evaluated, and after that a list of
requests at a time, a message to what runs, or how many seconds that has to save itself. What was standard output
carries out events, and how many processes there are. Only text and bytes cross to actors. Whoever reaches the ports of
a Ray cluster can run code on it.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system.child_start import begin, log_to
from meshtune.trial import Decision, Request, from_json, to_json
from meshtune.workers import remote_process
from meshtune.workers.parcels import Crossing, Parcels, received, sent
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.ray_cluster import (
    NODE_SECONDS,
    connect,
    first_line,
    place_of,
    processes_that_fit,
    refuse_without_node,
    survey,
)
from meshtune.workers.ray_lease import Wish
from meshtune.workers.running import Running, addressed, pack_of

LOOK_SECONDS = 0.2  # between looks at the input
POLL_SECONDS = 5.0  # an actor answers so often at least
SILENCE_SECONDS = remote_process.ORPHANED_SECONDS + 60.0  # past which one is given up: by then it has ended by itself
START_SECONDS = 600.0  # for the first process
IDLE_SECONDS = 300.0  # without work, after which a process ends where the cluster's autoscaler is asked
SETTLE_SECONDS = 20.0  # for the others: a node may have left that Ray still counts
GROW_SECONDS = 10.0  # between looks at what the cluster has
HELD_SECONDS = 600.0  # after a survey, that the connection is held for the study's processes
FAILED_STARTS = 3  # processes that failed at their start one after the other, before the study is given up
PROCESSES, NODES, NO_CLUSTER, FAULT, FAILED = (
    "Processes",
    "Nodes",
    "NoCluster",
    "Fault",
    "Failed",
)  # kinds of lines beside events


class _Actor:
    """What Ray runs on a node."""

    def __init__(self, start: str, url: str | None):
        self._remote = remote_process.RemoteProcess(remote_process.start_from(json.loads(start)))
        self._parcels = None if url is None or self._remote.shared else Parcels(url)

    def hello(self) -> str:
        hello = self._remote.hello()
        if self._parcels is not None and (why := self._parcels.fault()):
            hello = replace(hello, missing=(*hello.missing, why))
        return json.dumps(asdict(hello))

    def keep_data(self, files: Crossing) -> str:
        self._remote.keep_data(received(self._parcels, files))
        return self.hello()

    def take(self, message: str, files: Crossing) -> None:
        self._remote.take(message, received(self._parcels, files))

    def give(self, seconds: float) -> tuple[list[str], Crossing]:
        lines, files = self._remote.give(seconds)
        return lines, sent(self._parcels, files)

    def end(self) -> None:
        self._remote.end()


@dataclass(eq=False)
class _Slot:
    """A process that was asked for.

    Attributes:
        answer: what is awaited of its actor, since `asked`. hello: what it said, once it can be used. used: when it was
            seen at work.
    """

    name: str
    actor: Any
    answer: Any
    asked: float
    hello: remote_process.Hello | None = None
    running: Running = field(default_factory=Running)
    suspended: bool = False
    used: float = field(default_factory=time.monotonic)


class Processes:
    """The processes of a cluster, and what runs in them.

    Args:
        config: the study's. objective: what is evaluated. spec: what each process is started with. count: so many are
            wanted. folder: the study's. start: whether a cluster may be started on this machine, where there is none.
        say: takes a line for the coordinator.

    Raises:
        InputError: no cluster answers, or none of its nodes has what a process needs; a node has another version of
            meshtune, or does not see a file that the objective reads. WorkerError: no process comes to be.
    """

    def __init__(
        self,
        config: WorkerConfig,
        objective: ObjectiveSpec,
        spec: ProcessSpec,
        count: int,
        folder: Path,
        start: bool,
        say: Callable[[str], None],
    ):
        self._config, self._objective, self._spec, self._folder, self._say = config, objective, spec, folder, say
        how = connect(config, count, spec, start=start)
        if how is None:
            raise InputError(Fault("the Ray cluster is gone", key="worker"))
        self._own = how == "started"
        self._count = self._wanted = count
        self._wish = Wish(place_of(config, spec)) if config.autoscale else None
        self._slots: list[_Slot] = []
        self._queue: deque[Running] = deque()
        self._number = self._failed = 0
        self._looked = -math.inf
        self._begun = False
        self._mark = f".seen-{uuid.uuid4().hex}"
        (self._folder / self._mark).touch()
        self._url = None if config.files is None else f"{config.files.rstrip('/')}/meshtune-{uuid.uuid4().hex}"
        self._parcels = None if self._url is None else Parcels(self._url)
        if self._parcels is not None:
            self._parcels.begin()
        if self._wish is None:
            refuse_without_node(config, self._spec)
        self._grow()
        self._await_first()
        self._begun = True
        self._say_count()

    def submit(self, requests: list[Request]) -> None:
        """Start requests together in one process, as soon as one is free."""
        self._queue.append(Running(requests))
        self._hand_out()

    def tell(self, message: dict[str, Any]) -> None:
        """Pass a message on to what runs, or is about to."""
        name, said = pack_of(message), addressed(message)
        queued = next((pack for pack in self._queue if pack.is_pack(*name)), None)
        slot = next((slot for slot in self._slots if slot.running.is_pack(*name)), None)
        if isinstance(said, Decision):
            if slot is not None:
                slot.actor.take.remote(json.dumps(message), {})
            return
        pack, request = said
        if queued is not None:
            queued.join(pack, request)
        elif slot is not None and slot.hello is not None:
            slot.running.join(pack, request)
            files = {} if slot.hello.shared else remote_process.needed(self._folder, [request])
            slot.actor.take.remote(json.dumps(message), sent(self._parcels, files))
        else:
            for outcome in remote_process.lost(Running([request]), "the process that it was to join is gone"):
                self._say(to_json(outcome))

    def look(self, seconds: float) -> None:
        """Say what has come, waiting up to `seconds` for the first. Raises InputError, WorkerError."""
        self._grow()
        self._look(seconds)
        self._hand_out()

    def suspend(self, seconds: float) -> None:
        """Ask what runs to save where it is and to end; give it up after so many seconds and a moment."""
        self._wanted = 0  # no process is replaced from here on
        self._queue.clear()
        busy = [slot for slot in self._slots if slot.running]
        for slot in busy:
            slot.actor.take.remote(json.dumps(seconds), {})
        until = time.monotonic() + seconds + POLL_SECONDS
        while any(slot in self._slots and not slot.suspended for slot in busy) and time.monotonic() < until:
            self._look(0.2)

    def close(self) -> None:
        """End all processes, and the cluster where it was started for them."""
        self._wanted = 0
        if self._wish is not None:
            self._wish.end()
        ends = [slot.actor.end.remote() for slot in self._slots if slot.hello is not None]
        with contextlib.suppress(RayError):
            ray.wait(ends, num_returns=len(ends), timeout=10.0) if ends else None
        (self._folder / self._mark).unlink(missing_ok=True)
        if self._parcels is not None:
            self._parcels.end()
        ray.shutdown()

    # -- inside

    def _hand_out(self) -> None:
        for slot in self._slots:
            if self._queue and slot.hello is not None and not slot.running:
                slot.running = self._queue.popleft()
                requests = list(slot.running.requests.values())
                files = {} if slot.hello.shared else remote_process.needed(self._folder, requests)
                said = json.dumps([json.loads(to_json(request)) for request in requests])
                slot.actor.take.remote(said, sent(self._parcels, files))

    def _say_count(self) -> None:
        there = sum(slot.hello is not None for slot in self._slots)
        if self._wish is not None:  # those that have ended for want of work are there as soon as there is some
            there = self._count
        if self._begun:  # the first word is about all that are there
            self._say(json.dumps({"kind": PROCESSES, "count": there, "own": self._own}))

    def _grow(self) -> None:
        """Ask for processes that are missing; where their number is not given, as many as the cluster has room for."""
        if self._wanted and self._config.processes is None and time.monotonic() - self._looked > GROW_SECONDS:
            self._looked = time.monotonic()
            self._wanted = max(1, processes_that_fit(self._config, self._spec))
        if self._wanted and self._wish is not None:
            self._follow_need(self._wish)
        while len(self._slots) < self._wanted:
            self._number += 1
            name = f"ray-{self._number}"
            start = remote_process.start_of(self._objective, self._spec, self._folder, self._mark, name)
            actor = ray.remote(**_options(self._config, self._spec))(_Actor).remote(json.dumps(start), self._url)
            self._slots.append(_Slot(name, actor, actor.hello.remote(), time.monotonic()))

    def _follow_need(self, wish: Wish) -> None:
        """End processes that had no work for a while, so that their nodes can go; ask for those that have some."""
        now, busy = time.monotonic(), sum(bool(slot.running) for slot in self._slots)
        for slot in list(self._slots):
            if slot.running:
                slot.used = now
            elif slot.hello is not None and now - slot.used > IDLE_SECONDS and len(self._slots) > 1:
                slot.actor.end.remote()  # it is over with its last reference
                self._slots.remove(slot)
        self._wanted = min(self._count, max(len(self._slots), busy + len(self._queue))) if self._begun else self._count
        wish.want(self._wanted)

    def _await_first(self) -> None:
        """Wait for a process, and some seconds for the others that the cluster has room for. Raises WorkerError."""
        begun = time.monotonic()
        while True:
            self._look(1.0)
            self._grow()
            waited, there = time.monotonic() - begun, sum(slot.hello is not None for slot in self._slots)
            if there >= min(self._wanted, processes_that_fit(self._config, self._spec)):
                return
            if there and waited > SETTLE_SECONDS:
                return
            if waited > (START_SECONDS if self._wish is None else NODE_SECONDS):
                why = f"no process came to be on the Ray cluster within {waited:.0f} s"
                raise WorkerError(f"{why}: see `ray status`")

    def _look(self, seconds: float) -> None:
        """Read what the processes answer, waiting so long for the first."""
        slots = {slot.answer: slot for slot in self._slots if slot.answer is not None}
        if not slots:
            time.sleep(seconds)
            return
        ray.wait(list(slots), timeout=seconds)
        done, _ = ray.wait(list(slots), num_returns=len(slots), timeout=0)
        for answer in done:
            slot = slots[answer]
            try:
                given = ray.get(answer)
            except RayActorError as error:
                self._lose(slot, f"the process on {self._where(slot)} is gone: {first_line(error)}")
            except RayError as error:
                self._lose(slot, f"the process on {self._where(slot)} failed: {first_line(error)}")
            else:
                self._take(slot, given)
        for slot in list(self._slots):
            if slot.answer is not None and slot.hello is not None and time.monotonic() - slot.asked > SILENCE_SECONDS:
                self._lose(slot, f"the process on {self._where(slot)} gave no sign of life for {SILENCE_SECONDS:g} s")

    def _take(self, slot: _Slot, given: Any) -> None:
        """What a process answered: its hello, that it has the rows, or what came."""
        if isinstance(given, str):
            hello = remote_process.hello_from(json.loads(given))
            if not self._usable(slot, hello):
                return
            if not hello.data:
                slot.answer = slot.actor.keep_data.remote(sent(self._parcels, self._rows()))
                return
            slot.hello = hello
            self._failed = 0
            self._say_count()
        else:
            lines, crossing = given
            try:
                files = received(self._parcels, crossing)
            except Exception as error:  # each protocol has errors of its own
                self._lose(slot, f"the files of the process on {self._where(slot)} did not come: {first_line(error)}")
                return
            remote_process.put(self._folder, files)
            for line in lines:
                self._pass_on(slot, line)
        slot.answer, slot.asked = slot.actor.give.remote(POLL_SECONDS), time.monotonic()

    def _usable(self, slot: _Slot, hello: remote_process.Hello) -> bool:
        """Whether a process can evaluate what is asked for. One that cannot keeps its node, so that none is put there.

        Raises InputError where it is the first.
        """
        if (fault := remote_process.fault(hello)) is None:
            return True
        if all(other.hello is None for other in self._slots):
            raise InputError(Fault(fault, key="worker"))
        print(f"meshtune: a node of the Ray cluster is not used: {fault}", file=sys.stderr, flush=True)
        slot.answer = None
        return False

    def _rows(self) -> dict[str, bytes]:
        rows = Path(self._objective.spec["data"]["folder"])
        return {path.relative_to(rows).as_posix(): path.read_bytes() for path in rows.rglob("*") if path.is_file()}

    def _pass_on(self, slot: _Slot, line: str) -> None:
        """Say an event, where it is of an attempt that runs here."""
        if line == remote_process.SUSPENDED:
            slot.suspended = True
            return
        if slot.running.event(line) is not None:
            self._say(line)

    def _lose(self, slot: _Slot, why: str) -> None:
        self._slots.remove(slot)
        with contextlib.suppress(Exception):
            ray.kill(slot.actor)
        if slot.hello is None:
            self._failed += 1
            if self._failed >= FAILED_STARTS:
                raise WorkerError(f"processes on the Ray cluster keep failing at their start: {why}")
        self._say_count()  # first: what has crashed may be given to a process at once
        if self._wanted:  # else they were suspended, and stay pending
            for outcome in remote_process.lost(slot.running, why):
                self._say(to_json(outcome))

    def _where(self, slot: _Slot) -> str:
        return slot.hello.node if slot.hello is not None else "the Ray cluster"


def _options(config: WorkerConfig, spec: ProcessSpec) -> dict[str, Any]:
    place = place_of(config, spec)
    options: dict[str, Any] = {
        "num_cpus": place["resources"]["CPU"],
        "num_gpus": place["resources"].get("GPU", 0),
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": 4,
        "scheduling_strategy": "SPREAD",
    }
    return {**options, "label_selector": place["labels"]} if place["labels"] else options


def main() -> None:
    """Say what the cluster has as often as that is asked, then hold the processes until the input ends."""
    if (begun := begin()) is None:
        return
    say, start = begun
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    try:
        while "survey" in start:
            survey(WorkerConfig.model_validate_json(json.dumps(start["config"])), say)
            start = _await(inbox, HELD_SECONDS)
            if start is _ENDED:
                return
        log_to(Path(start["log"]))
        with contextlib.closing(_processes(start, say)) as there:
            while (message := _next(inbox)) is not _ENDED:
                match message:
                    case None:
                        there.look(LOOK_SECONDS)
                    case "end":
                        break
                    case list():
                        requests = [from_json(json.dumps(fields)) for fields in message]
                        there.submit([request for request in requests if isinstance(request, Request)])
                    case dict():
                        there.tell(message)
                    case seconds:
                        there.suspend(float(seconds))
                        break
    except InputError as error:
        fault = error.faults[0]
        say(json.dumps({"kind": FAULT, "message": fault.message, "key": fault.key}))
    except WorkerError as error:
        say(json.dumps({"kind": FAILED, "message": str(error)}))


_ENDED = object()


def _read(inbox: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put(_ENDED)


def _await(inbox: queue.SimpleQueue[Any], seconds: float) -> Any:
    """The next line; the end, where none comes for so long."""
    try:
        return inbox.get(timeout=seconds)
    except queue.Empty:
        return _ENDED


def _next(inbox: queue.SimpleQueue[Any]) -> Any:
    try:
        return inbox.get_nowait()
    except queue.Empty:
        return None


def _processes(start: dict[str, Any], say: Callable[[str], None]) -> Processes:
    config = WorkerConfig.model_validate_json(json.dumps(start["config"]))
    spec = ProcessSpec(**start["process"])
    given = start["count"], Path(start["folder"]), start["start"]
    return Processes(config, ObjectiveSpec(**start["objective"]), spec, *given, say)


if __name__ == "__main__":
    main()
