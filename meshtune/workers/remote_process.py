"""A process on another machine with its objective, for a coordinator that is elsewhere.

The coordinator talks to it through whatever carries lines (an actor of Ray, files that both see), and it holds a local
worker of one process: what that guarantees of deaths, timeouts and frozen processes holds here too. Where the study's
folder is not seen from this machine, a folder of its own stands in for it, and its files cross as bytes: what is needed
comes with the requests, what changed goes ahead of the events. Rows are kept in the user's cache by their fingerprint,
until nobody has used them for a month.

It ends itself once its coordinator has been silent for `ORPHANED_SECONDS`, which is before the coordinator gives its
trials to another: no two work on one trial, whatever link was cut. Nothing here decides or records.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from meshtune import _version
from meshtune.objectives import checkpoints, measurement_files
from meshtune.objectives.build import ObjectiveSpec
from meshtune.trial import Decision, Ending, Outcome, Request, from_json, to_json
from meshtune.workers.local import LocalWorker
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.running import Running, addressed

ORPHANED_SECONDS = 300.0
UNUSED_SECONDS = 30 * 86400.0  # after which rows, and what a killed process left, are taken out of the cache
LOOK_SECONDS = 0.1  # between looks at what came from the coordinator, while something runs
DATA, LOGS = "data", "logs"  # folders of a study that do not cross with events
SUSPENDED = '{"kind": "Suspended"}'  # the line after the last event of what was suspended

Files = Mapping[str, bytes | None]  # by path in the study's folder; None: it is gone


@dataclass(frozen=True)
class Start:
    """What a process is started with; crosses as JSON.

    Attributes:
        objective: kind and spec. device, threads: of its process. environment: that makes its device the only one seen.
        folder: the study's, as the coordinator sees it. mark: a file in it that only those see who share it.
        paths: that the objective reads beside the study's folder. name: of the process in messages and logs.
        devices: that share the rows of what it trains. sharded: whether they share the base's layers too.
    """

    objective: dict[str, Any]
    device: str
    threads: int | None
    environment: Mapping[str, str]
    folder: str
    mark: str
    paths: tuple[str, ...]
    name: str
    devices: int = 1
    sharded: bool = False


@dataclass(frozen=True)
class Hello:
    """What a process says of itself before it is given anything; crosses as JSON.

    Attributes:
        node: its machine. version, python: that it runs. shared: whether it sees the study's folder.
        missing: paths that the objective reads and that are not there. data: whether it has the study's rows.
    """

    node: str
    version: str
    python: str
    shared: bool
    missing: tuple[str, ...]
    data: bool


def start_of(objective: ObjectiveSpec, spec: ProcessSpec, folder: Path, mark: str, name: str = "") -> dict[str, Any]:
    """A `Start` as it crosses; `start_from` reads it."""
    paths = reads(objective)
    process = asdict(replace(spec, environment=dict(spec.environment)))
    del process["gpus"]  # it has them
    start = Start(objective=asdict(objective), folder=str(folder), mark=mark, paths=paths, name=name, **process)
    return asdict(start)


def start_from(fields: Mapping[str, Any]) -> Start:
    """What `start_of` made, out of JSON's lists."""
    return Start(**{**fields, "paths": tuple(fields["paths"])})


def hello_from(fields: Mapping[str, Any]) -> Hello:
    """A `Hello` that crossed, out of JSON's lists."""
    return Hello(**{**fields, "missing": tuple(fields["missing"])})


def reads(objective: ObjectiveSpec) -> tuple[str, ...]:
    """Absolute paths in an objective's spec, the study's folder left out: a process must see them where they are."""
    own = {objective.spec.get("folder"), (objective.spec.get("data") or {}).get("folder")}
    return tuple(dict.fromkeys(path for path in _paths(objective.spec) if path not in own))


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str) and os.path.isabs(value) and os.path.exists(value):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _paths(inner)


def needed(folder: Path, requests: Sequence[Request]) -> dict[str, bytes]:
    """The files of a study that these requests go on from, or measure."""
    trained = [request.trial for request in requests if request.measure is None]
    parts = [f"{checkpoints.STOPPED}/{trial}" for trial in trained] + [measurement_files.FOLDER]
    if trained:
        parts.append(f"{checkpoints.FOLDER}/{checkpoints.of_pack([each for each in requests if each.measure is None])}")
        parts += [f"{checkpoints.FOLDER}/{checkpoints.name_of([trial])}" for trial in trained]
    parts += [request.adapter for request in requests if request.adapter is not None]
    return {name: (folder / name).read_bytes() for part in dict.fromkeys(parts) for name in _files(folder, part)}


def _files(folder: Path, part: str = ".") -> Iterator[str]:
    """Files under a part of a folder, by their path in it; what is half written has a name of its own."""
    for path in sorted((folder / part).rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not path.name.endswith(".part") and name.parts[0] != LOGS:
            yield name.as_posix()


def put(folder: Path, files: Files) -> None:
    """Write files into a study's folder, each whole, and remove what is gone. Raises OSError, ValueError."""
    for name, content in files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"a process sent a file outside the study's folder: {name!r}")
        path = folder / parts
        if content is None:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == folder or any(parent.iterdir() if parent.is_dir() else ()):
                    break
                if parent.is_dir():
                    parent.rmdir()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        aside.write_bytes(content)
        aside.replace(path)


class RemoteProcess:
    """Take messages from any thread; `give` is called again and again by one.

    Args:
        start: see there. scratch: where a study's folder that is not seen gets its stand-in; None: the user's cache.
    """

    def __init__(self, start: Start, scratch: Path | None = None):
        self._start = start
        folder = Path(start.folder)
        shared = (folder / start.mark).is_file()
        cache = scratch or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshtune" / "processes"
        self._spec = ObjectiveSpec(**start.objective)
        self._data: Path | None = None
        if not shared:
            cache.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="study-", dir=cache))
            self._spec = self._moved(folder, cache)
            _touch(self._data)
            _drop_unused(cache)
        self.folder, self.shared = folder, shared
        self._known = self._stamps()
        self._worker: LocalWorker | None = None
        self._inbox: queue.SimpleQueue[tuple[str, Files]] = queue.SimpleQueue()
        self._running = Running()
        self._suspended = False
        self._heard = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _moved(self, folder: Path, cache: Path) -> ObjectiveSpec:
        """The objective over the stand-in, its rows in a folder that other studies of this machine share."""
        spec = {**self._spec.spec, "folder": str(folder)}
        if data := spec.get("data"):
            self._data = cache / DATA / str(data["fingerprint"])
            spec["data"] = {**data, "folder": str(self._data)}
        return ObjectiveSpec(self._spec.kind, spec)

    def hello(self) -> Hello:
        """What it is."""
        missing = tuple(path for path in self._start.paths if not os.path.exists(path))
        data = self._data is None or self._data.is_dir()
        version = platform.python_version()
        return Hello(socket.gethostname(), _version.__version__, version, self.shared, missing, data)

    def keep_data(self, files: Files) -> None:
        """Keep the study's rows, whole or not at all; another place of this machine may do the same."""
        if self._data is None or self._data.is_dir():
            return
        aside = Path(tempfile.mkdtemp(prefix=".data-", dir=self._data.parent.parent))
        put(aside, files)
        self._data.parent.mkdir(exist_ok=True)
        try:
            aside.rename(self._data)
        except OSError:  # another was faster
            shutil.rmtree(aside, ignore_errors=True)

    def take(self, message: str, files: Files | None = None) -> None:
        """A message from the coordinator: a JSON list of requests; one to what runs, as `running.py` makes them; or how
        many seconds what runs has to save itself.
        """
        self._inbox.put((message, files or {}))

    def give(self, seconds: float) -> tuple[list[str], dict[str, bytes | None]]:
        """Events as JSON lines, and the files that are to be there before them; waits up to `seconds` for the first."""
        until = time.monotonic() + seconds
        lines: list[str] = []
        while not lines and time.monotonic() < until:
            self._heard = time.monotonic()
            self._read()
            if self._running and self._worker is not None:
                lines = [self._line(event) for event in self._worker.events(0.0 if self._suspended else LOOK_SECONDS)]
            else:
                time.sleep(LOOK_SECONDS)
            if self._suspended:
                lines.append(SUSPENDED)
        changes = self._changes()
        if not self.shared and not self._running:
            self._clear()
        return lines, changes

    def end(self) -> None:
        """End what runs, and take the stand-in away."""
        self._ended.set()
        if self._worker is not None:
            self._worker.close()
        if not self.shared:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- inside

    def _read(self) -> None:
        while not self._inbox.empty():
            message, files = self._inbox.get()
            if not self.shared:
                put(self.folder, files)
                self._known.update({name: stamp for name, stamp in self._stamps().items() if name in files})
            content = json.loads(message)
            if self._worker is None:
                start = self._start
                spec = ProcessSpec(start.device, start.environment, start.threads, start.devices, start.sharded)
                self._worker = LocalWorker(self._spec, [spec], self.folder, log=self._start.name, host=platform.node())
            match content:
                case list():
                    requests = [from_json(json.dumps(fields)) for fields in content]
                    self._running = Running([request for request in requests if isinstance(request, Request)])
                    self._worker.submit(list(self._running.requests.values()))
                case dict():
                    self._pass_on(self._worker, content)
                case seconds:
                    self._worker.suspend(float(seconds))
                    self._suspended = True

    def _pass_on(self, worker: LocalWorker, content: dict[str, Any]) -> None:
        """A message to what runs."""
        match addressed(content):
            case Decision() as decision:
                worker.decide(decision)
            case pack, request:
                if not self._running.join(pack, request) or not worker.join(pack, request):
                    self._running = Running([request])  # the pack has just ended
                    worker.submit([request])

    def _line(self, event: Any) -> str:
        if isinstance(event, Outcome):
            self._running.requests.pop(event.trial, None)
        return to_json(event)

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of the stand-in's files."""
        found: dict[str, tuple[int, int]] = {}
        for name in () if self.shared else _files(self.folder):
            try:
                stat = (self.folder / name).stat()
            except FileNotFoundError:  # taken away meanwhile
                continue
            found[name] = (stat.st_size, stat.st_mtime_ns)
        return found

    def _changes(self) -> dict[str, bytes | None]:
        """The stand-in's files that changed since they last crossed."""
        now = self._stamps()
        changed: dict[str, bytes | None] = {name: None for name in self._known if name not in now}
        for name, stamp in now.items():
            if self._known.get(name) != stamp:
                try:
                    changed[name] = (self.folder / name).read_bytes()
                except FileNotFoundError:
                    continue
        self._known = now
        return changed

    def _clear(self) -> None:
        """Nothing runs, and all has crossed: leave nothing on this machine but what the process has open."""
        for path in self.folder.iterdir():
            if path.name not in (LOGS, measurement_files.FOLDER):
                shutil.rmtree(path, ignore_errors=True)
        self._known = self._stamps()

    def _watch(self) -> None:
        """End with a coordinator that is silent: it takes this process for lost soon."""
        while not self._ended.wait(5.0):
            if not self.shared:
                _touch(self.folder, self._data)
            if time.monotonic() - self._heard > ORPHANED_SECONDS:
                os._exit(1)  # the process that trains ends with its pipe


def lost(running: Running, why: str) -> list[Outcome]:
    """The outcomes of what ran in a process that is lost."""
    ended = running.requests.values()
    return [Outcome(one.trial, one.attempt, Ending.CRASHED, message=why, lost=True) for one in ended]


def _touch(*used: Path | None) -> None:
    for path in used:
        if path is not None:
            with contextlib.suppress(OSError):  # not there yet, or the disk is away
                os.utime(path)


def _drop_unused(cache: Path) -> None:
    """Take out of the cache what no process has used for long: rows, and folders of processes that were killed."""
    for path in [*(cache / DATA).glob("*"), *cache.glob("study-*"), *cache.glob(".data-*")]:
        with contextlib.suppress(OSError):  # another process may be about the same
            if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def fault(hello: Hello) -> str | None:
    """Why a process cannot evaluate what this coordinator asks for; None where it can."""
    if hello.version != _version.__version__:
        return f"{hello.node} has meshtune {hello.version}, this machine {_version.__version__}: install the same there"
    if hello.missing:
        what = f"{hello.node} does not see {', '.join(hello.missing)}: put it into a folder that all nodes share, or "
        return what + "copy it to the same path there"
    return None
