"""Trials on a Ray cluster (extra `ray`). One coordinator and one record stay as they are.

The cluster is spoken with by a program of its own, `ray_driver.py`, which says what that means for deaths and late
answers. Where it dies itself, as it does with the cluster's head, what ran has crashed, and it is started again, with
growing pauses, for some minutes; after that the study stops, and the same command continues it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError, Stopped, WorkerError
from meshtune.objectives.build import ObjectiveSpec
from meshtune.system import child_start
from meshtune.trial import Event, Outcome, Request, from_json, to_json
from meshtune.workers.planner import ProcessSpec
from meshtune.workers.remote_process import lost

PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0)  # seconds before it is started again
SILENCE_SECONDS = 300.0  # without a sign of life it is taken for frozen
END_SECONDS = 30.0


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
        self._start_line = {
            "config": config.model_dump(mode="json"),
            "objective": asdict(objective),
            "process": {**asdict(processes[0]), "environment": dict(processes[0].environment)},
            "count": len(processes),
            "folder": str(self._folder),
        }
        self._log = self._folder / "logs" / "ray.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._selector = selectors.DefaultSelector()
        self._waiting: list[Event] = []
        self._packs: list[dict[int, Request]] = []
        self._deaths, self._again = 0, 0.0
        self._suspended = False
        self._start()
        try:
            while not self._there:
                self._look(1.0)
                if self._driver is None:
                    raise WorkerError(f"the program that speaks with the Ray cluster died: {self._last_words()}")
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
        self._packs.append({request.trial: request for request in requests})
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
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._driver.wait(END_SECONDS)
        self._end()

    # -- inside

    def _start(self) -> None:
        self._pipe, write = os.pipe()
        with self._log.open("ab") as log:
            self._driver: subprocess.Popen[bytes] | None = subprocess.Popen(
                child_start.command("meshtune.workers.ray_driver", "--fd", str(write)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                start_new_session=True,  # keeps the terminal's Ctrl-C away
            )
        os.close(write)
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._text, self._heard, self._there = b"", time.monotonic(), 0
        self._send(self._start_line)

    def _send(self, message: object) -> None:
        assert self._driver is not None
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the end of its pipe says so
            self._driver.stdin.write(json.dumps(message).encode() + b"\n")
            self._driver.stdin.flush()

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
        data = os.read(self._pipe, 1 << 20)
        if not data:
            self._died()
            return
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self._read(json.loads(line), line.decode())

    def _read(self, fields: dict[str, Any], line: str) -> None:
        match fields["kind"]:
            case "Beat":
                return
            case "Processes":
                self._there = fields["count"]
                self._deaths = 0
            case "Fault":
                raise InputError(Fault(fields["message"], key=fields["key"]))
            case "Failed":
                raise WorkerError(fields["message"])
            case _:
                event = from_json(line)
                pack = next((pack for pack in self._packs if event.trial in pack), None)
                if isinstance(event, Request) or pack is None or pack[event.trial].attempt != event.attempt:
                    return
                if isinstance(event, Outcome):
                    del pack[event.trial]
                    self._packs = [pack for pack in self._packs if pack]
                self._waiting.append(event)

    def _died(self) -> None:
        """The driver is gone, and with it what ran."""
        self._end()
        if self._suspended:
            return
        why = f"the program that speaks with the Ray cluster died: {self._last_words()}"
        for pack in self._packs:
            self._waiting += lost(list(pack.values()), why)
        self._packs = []
        if self._deaths >= len(PAUSES):
            raise Stopped(f"{why}. Once the cluster is there again, run the same again")
        self._again = time.monotonic() + PAUSES[self._deaths]
        self._deaths += 1

    def _start_again(self) -> None:
        if time.monotonic() >= self._again and not self._suspended:
            self._start()

    def _end(self) -> None:
        assert self._driver is not None
        self._selector.unregister(self._pipe)
        os.close(self._pipe)
        if self._driver.poll() is None:
            self._driver.kill()
        self._driver.wait()
        if self._driver.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._driver.stdin.close()
        self._driver, self._there = None, 0

    def _last_words(self) -> str:
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        return f"its log {self._log} ends: {' | '.join(words)}" if words else f"its log {self._log} is empty"
