"""A Ray cluster of two nodes as processes of this machine (`ray start`), whose head can be lost and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from meshtune.testing.processes import alive, descendants, gone

# Ray gives its processes the lowest priority but for a few: beside other work of this machine they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")
RAY = str(Path(sys.executable).parent / "ray")
RAYLET = "raylet/raylet"  # what a node is, among Ray's processes


class RayNodes:
    """The head and a node, each with a processor; the same port for as long as this is there."""

    def __init__(self) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self._nodes = list[subprocess.Popen[bytes]]()
        self.start()

    def start(self) -> None:
        """Start what is missing."""
        here = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=80000000", "--block"]
        head = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        for place in (head, [f"--address={self.address}"])[len(self._nodes) :]:
            node = subprocess.Popen([RAY, "start", *place, *here], **quiet)
            self._nodes.append(node)
            until(lambda node=node: bool(running(descendants(node.pid), RAYLET)) or node.poll() is not None)
            if node.poll() is not None:
                raise RuntimeError(f"`ray start` ended with {node.returncode}")

    def family(self) -> set[int]:
        """All its processes."""
        return {pid for node in self._nodes for pid in (node.pid, *descendants(node.pid))}

    def kill(self, first: int = 0) -> None:
        """Kill the nodes from this one on, without grace; 0: the head, and with it all."""
        for node in self._nodes[first:]:
            family = {node.pid} | descendants(node.pid)
            strike(running(family, RAYLET), signal.SIGKILL)
            strike(family, signal.SIGKILL)  # a machine that is gone leaves none of its processes
            node.wait()
            gone(family)
        del self._nodes[first:]


def running(pids: Iterable[int], program: str) -> list[int]:
    """Those of these processes whose command line has such a word."""
    found = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            if program in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") and alive(pid):
                found.append(pid)
    return found


def strike(pids: Iterable[int], kind: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, kind)


def until(true: Callable[[], bool], seconds: float = 900.0) -> None:
    """Wait for it. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing moved for {seconds:g} s")
        time.sleep(0.05)
