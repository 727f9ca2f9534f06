"""Trials on a Ray cluster (extra `ray`). One coordinator and one record stay as they are.

The cluster is spoken with by a program of its own, `ray_driver.py`, which says what that means for deaths and late
answers. Where it dies itself, as it does with the cluster's head, what ran has crashed, and it is started again, with
growing pauses, for some minutes; a cluster that cannot be reached meanwhile may be back the next time. After that the
study stops, and the same command continues it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError, Stopped, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start
from meshtune.system.children import Child
from meshtune.trial import Decision, Event, Request, to_json
from meshtune.workers.planner import Nodes, ProcessSpec
from meshtune.workers.remote_process import lost
from meshtune.workers.running import Running, deciding, joining

PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0)  # seconds before it is started again
END = "end"  # asks the driver to end
SILENCE_SECONDS = 300.0  # without a sign of life it is taken for frozen
END_SECONDS = 30.0
HELD_SECONDS = 540.0  # that a driver is held after a survey; it ends by itself a minute later


def _driver() -> Child:
    """A new one. Ray reads its environment as it is imported, and so does a cluster that is started on this machine."""
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # processes without a GPU see none as it is
        "RAY_worker_niceness": "0",  # of a cluster of this machine alone: trials are its work
    }
    if os.environ.get("RAY_AUTH_TOKEN_PATH") or (Path.home() / ".ray" / "auth_token").is_file():
        environment["RAY_AUTH_MODE"] = "token"  # `ray start` takes it by itself, who connects by address does not
    unset = {name: value for name, value in environment.items() if name not in os.environ}
    return Child(child_start.command("meshtune.workers.ray_driver"), environment=unset)


@dataclass(frozen=True)
class _Held:
    """A driver that has answered a survey and waits for what to do. `cluster`: what it was asked about."""

    driver: Child
    cluster: tuple[WorkerConfig, str | None]
    since: float


_held: list[_Held] = []  # at most one; it ends with this process, and by itself after a while


def _cluster_of(config: WorkerConfig) -> tuple[WorkerConfig, str | None]:
    return config, os.environ.get("RAY_ADDRESS")


def _connected(config: WorkerConfig) -> Child | None:
    """The driver that is held, where it is there for this."""
    if not _held:
        return None
    held = _held.pop()
    if held.cluster == _cluster_of(config) and not held.driver.ended and time.monotonic() - held.since < HELD_SECONDS:
        return held.driver
    held.driver.close()
    return None


def survey(config: WorkerConfig) -> Nodes | None:
    """What the nodes of the cluster have now; None where there is none yet. Raises InputError, WorkerError.

    The program that found out is held for the worker: to connect once more would take seconds.
    """
    driver = _connected(config) or _driver()
    try:
        nodes = _survey(driver, config)
    except BaseException:
        driver.close()
        raise
    _held.append(_Held(driver, _cluster_of(config), time.monotonic()))
    return nodes


def _survey(driver: Child, config: WorkerConfig) -> Nodes | None:
    with contextlib.suppress(BrokenPipeError):  # it has died: the end of its pipe says so
        driver.send({"survey": True, "config": config.model_dump(mode="json")})
    while (lines := driver.read()) is not None:
        for fields in map(json.loads, lines):
            match fields["kind"]:
                case "Fault":
                    raise InputError(Fault(fields["message"], key=fields["key"]))
                case "NoCluster":
                    return None
                case "Nodes":
                    return Nodes(fields["gpus"], fields["gpu_memory"], tuple(fields["cpus"]), fields["memory"])
    raise WorkerError(f"the program that speaks with the Ray cluster died: {_words(driver.words())}")


class RayWorker:
    """The worker interface over a Ray cluster; connects to it, or starts one on this machine.

    Args:
        config: the study's. objective: what is evaluated. processes: what each process is started with, as many as are
            wanted. folder: the study's; the driver's log goes to `<folder>/logs/ray.log`.

    Raises:
        InputError: no cluster answers, or none of its nodes has what a process needs; a node has another version of
            meshtune, or does not see a file that the objective reads. WorkerError: no process comes to be.
    """

    def __init__(self, config: WorkerConfig, objective: ObjectiveSpec, processes: Sequence[ProcessSpec], folder: Path):
        self._folder = folder.absolute()
        spec = processes[0]
        # Which GPU a process sees is Ray's affair.
        environment = {} if spec.gpus else dict(spec.environment)
        self._log = self._folder / "logs" / "ray.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._start_line = {
            "log": str(self._log),
            "config": config.model_dump(mode="json"),
            "objective": asdict(objective),
            "process": asdict(replace(spec, environment=environment)),
            "count": len(processes),
            "folder": str(self._folder),
        }
        self._selector = selectors.DefaultSelector()
        self._waiting: list[Event] = []
        self._packs: list[Running] = []
        self._deaths, self._again = 0, 0.0
        self._suspended, self._why, self._said = False, "", ""
        self._begun, self._own = False, True  # whether there were processes; whether the cluster may be our own
        connected = _connected(config)
        self._start(connected)
        try:
            while not self._there:
                self._look(1.0)
                if self._driver is None and connected is None:
                    raise WorkerError(self._why)
                if self._driver is None:  # the cluster that it was connected to is gone, and may be back
                    connected = None
                    self._start()
        except BaseException:
            self.close()
            raise

    def free(self) -> int:
        """Processes that are there and have nothing to do."""
        return max(0, self._there - len(self._packs))

    def submit(self, requests: Sequence[Request]) -> None:
        """Start requests together in one process."""
        if not self.free():
            raise WorkerError("requests were submitted while no process was free")
        self._packs.append(Running(requests))
        self._send([json.loads(to_json(request)) for request in requests])

    def events(self, timeout: float) -> list[Event]:
        """Progress and outcomes that have come, waiting up to `timeout` seconds for the first."""
        until = time.monotonic() + timeout
        while True:
            left = 0.0 if self._waiting else max(0.0, until - time.monotonic())
            self._look(min(left, 1.0))
            if self._driver is None:
                self._start_again()
            if self._waiting or time.monotonic() >= until:
                break
        events, self._waiting = self._waiting, []
        return events

    def decide(self, decision: Decision) -> None:
        """Tell what waits at a rung; what is over hears nothing."""
        if any(pack.is_pack(decision.pack, decision.attempt) for pack in self._packs):
            self._send(deciding(decision))

    def join(self, pack: int, request: Request) -> bool:
        """Have one more evaluated with a pack that runs; False: that attempt of it is over."""
        runs = any(running.join(pack, request) for running in self._packs)
        if runs:
            self._send(joining(pack, request))
        return runs

    def suspend(self, seconds: float) -> None:
        """Ask what runs to save where it is and to end; give it up after so many seconds."""
        self._suspended = True
        self._send(seconds)
        until = time.monotonic() + seconds + END_SECONDS
        while self._driver is not None and time.monotonic() < until:
            self._look(0.5)
        self.close()

    def close(self) -> None:
        """End all processes, and the cluster where it was started for them."""
        if self._driver is None:
            return
        self._send(END)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._driver.wait(END_SECONDS)
        self._end()

    # -- inside

    def _start(self, connected: Child | None = None) -> None:
        self._driver: Child | None = connected or _driver()
        self._logged = self._log.stat().st_size if self._log.exists() else 0
        self._selector.register(self._driver, selectors.EVENT_READ)
        self._heard, self._there = time.monotonic(), 0
        self._send({**self._start_line, "start": self._own})

    def _send(self, message: object) -> None:
        if self._driver is not None:
            with contextlib.suppress(BrokenPipeError):  # it has died: the end of its pipe says so
                self._driver.send(message)

    def _look(self, seconds: float) -> None:
        """Read what the driver says, waiting so long for the first of it."""
        if self._driver is None:
            time.sleep(seconds)
            return
        if not self._selector.select(seconds):
            if time.monotonic() - self._heard > SILENCE_SECONDS:
                self._driver.kill()  # the end of its pipe says so
            return
        self._heard = time.monotonic()
        lines = self._driver.read()
        if lines is None:
            self._died()
        for line in lines or ():
            self._read(json.loads(line), line)

    def _read(self, fields: dict[str, Any], line: str) -> None:
        match fields["kind"]:
            case "Beat":
                return
            case "Processes":
                self._there, self._own = fields["count"], fields["own"]
                self._begun = True
                self._deaths = 0
            case "Fault" if self._begun:  # it was fine before: the cluster is away, and the driver ends
                self._said = fields["message"]
            case "Fault":
                raise InputError(Fault(fields["message"], key=fields["key"]))
            case "Failed":
                raise WorkerError(fields["message"])
            case _:
                event = next((event for pack in self._packs if (event := pack.event(line)) is not None), None)
                if event is not None:
                    self._packs = [pack for pack in self._packs if pack]
                    self._waiting.append(event)

    def _died(self) -> None:
        """The driver is gone, and with it what ran."""
        words = self._end()
        why = self._why = self._said or f"the program that speaks with the Ray cluster died: {words}"
        self._said = ""
        if self._suspended:
            return
        for pack in self._packs:
            self._waiting += lost(pack, why)
        self._packs = []
        if self._deaths >= len(PAUSES):
            raise Stopped(
                f"the Ray cluster is lost, and did not come back in {sum(PAUSES) / 60:.0f} minutes ({why}). Everything"
                " finished is saved. Once the cluster is there again, run the same again"
            )
        self._again = time.monotonic() + PAUSES[self._deaths]
        self._deaths += 1

    def _start_again(self) -> None:
        if time.monotonic() >= self._again and not self._suspended:
            self._start()

    def _end(self) -> str:
        """End the driver; its last words."""
        assert self._driver is not None
        self._selector.unregister(self._driver)
        lines = self._driver.words()
        if self._log.exists():
            lines += self._log.read_bytes()[self._logged :].decode(errors="replace").strip().splitlines()
        self._driver.close()
        self._driver, self._there = None, 0
        return _words(lines)


def _words(lines: Sequence[str]) -> str:
    return f"its last words: {' | '.join(lines[-3:])}" if lines else "it said nothing"
