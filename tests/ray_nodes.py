"""A Ray cluster of two nodes as processes of this machine (`ray start`), whose head can be lost and come back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray._raylet import GcsClient

from meshtune.testing.processes import alive, descendants, gone

# Ray gives its processes the lowest priority but for a few: beside other work of this machine they would stand still.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # whatever token the user has
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


class AutoscalingNodes:
    """A head without processors, and Ray's fake autoscaler, which adds nodes of one processor each, at most `most`.

    As `ray.cluster_utils.AutoscalingCluster`, which needs a file that Ray's wheel lacks, and ends all of Ray's
    processes of the machine.
    """

    def __init__(self, folder: Path, most: int):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        nodes = {"ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
        nodes["node"] = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}
        fake = dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
        config = {
            "cluster_name": "fake_multinode",
            "max_workers": most,
            "provider": {"type": "fake_multinode", "gcs_address": self.address, **fake},
            "available_node_types": nodes,
            "head_node_type": "ray.head.default",
            "upscaling_speed": 10.0,
            "idle_timeout_minutes": 0.1,
            **{key: {} for key in ("auth", "file_mounts")},
            **{f"{name}_commands": [] for name in lists},
            **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
            "file_mounts_sync_continuously": False,
        }
        (folder / "autoscaling.json").write_text(json.dumps(config))
        command = [RAY, "start", "--head", f"--port={port}", f"--autoscaling-config={folder}/autoscaling.json"]
        command += ["--include-dashboard=false", "--node-ip-address=127.0.0.1", "--num-cpus=0"]
        command += ["--object-store-memory=80000000", "--block"]
        fast = {
            **os.environ,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with (folder / "head.log").open("wb") as log:
            self._head = subprocess.Popen(
                command, env=fast, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until(lambda: bool(running(self.family(), RAYLET)) or self._head.poll() is not None)
        if self._head.poll() is not None:
            raise RuntimeError((folder / "head.log").read_text())

    def family(self) -> set[int]:
        """All its processes."""
        return {self._head.pid, *descendants(self._head.pid)}

    def nodes(self) -> int:
        """How many nodes there are beside the head."""
        return len(running(self.family(), RAYLET)) - 1

    def asked(self) -> list[dict[str, float]]:
        """What the autoscaler is asked for."""
        channel = b"autoscaler_resource_request"
        said = GcsClient(address=self.address).internal_kv_get(channel, None, timeout=120)
        return list(json.loads(said or b"[]"))

    def kill(self) -> None:
        """End all of it."""
        family = self.family()
        strike(family, signal.SIGKILL)
        self._head.wait()
        gone(family)


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
