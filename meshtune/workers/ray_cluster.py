"""A Ray cluster as such: connecting to it, and what its nodes have. Runs in the program that speaks with it."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from meshtune.config.sections import WorkerConfig
from meshtune.errors import Fault, InputError
from meshtune.system.child_start import leave_signals_to_the_coordinator
from meshtune.system.machine import memory_available, query_gpus
from meshtune.workers.planner import ProcessSpec, refuse_fewer
from meshtune.workers.ray_lease import NAMESPACE, Wish

NODE_SECONDS = 1800.0  # that an autoscaler may take for a node
NODES, NO_CLUSTER = "Nodes", "NoCluster"  # kinds of lines


def connect(
    config: WorkerConfig, count: int, spec: ProcessSpec, *, start: bool = True
) -> Literal["joined", "started"] | None:
    """Connect to the cluster, or start one on this machine; None where there is none and none shall be started.

    Nothing is done where there is a connection already. Raises InputError where none answers at the address.
    """
    if ray.is_initialized():
        return "joined"
    address = config.address or os.environ.get("RAY_ADDRESS")
    devices = max(1, count) * spec.devices
    gpus = max(1, count) * spec.gpus
    alone = {"num_cpus": devices * (spec.threads or 1), "num_gpus": gpus, "include_dashboard": False}
    how: Literal["joined", "started"] = "joined"
    try:
        _knock(address)
        try:
            _init(address=address or "auto")
        except ConnectionError:
            if address is not None:
                raise
            if not start:
                return None
            start_here(**alone)
            how = "started"
    except (OSError, RayError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster can be used at {address}: {first_line(error)}. Start one with `ray start --head`"
        what += ", give the address that it prints, or leave `address` out to start one on this machine"
        raise InputError(Fault(what, key="worker.address")) from error
    leave_signals_to_the_coordinator()  # Ray takes SIGTERM for itself
    return how


def start_here(**given: Any) -> None:
    """Start a cluster of this machine alone.

    Only who has its token can reach it. Without one Ray would write one into the user's home, and each `ray start` from
    then on would ask for that.
    """
    os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    _init(address="local", **given)


def _init(**given: Any) -> None:
    ray.init(**given, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)


def _knock(address: str | None) -> None:
    """Raise OSError at once where nobody listens: Ray itself tries for minutes. ValueError for what is no address."""
    if address is None or address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ValueError("Ray Client (ray://) is not supported: run the study on a node of the cluster")
    if not colon or not port.isdigit():
        raise ValueError("an address is HOST:PORT, or auto")
    socket.create_connection((host, int(port)), timeout=10.0).close()


def survey(config: WorkerConfig, say: Callable[[str], None]) -> None:
    """Say what the cluster's nodes have. Raises InputError."""
    if not connect(config, 1, ProcessSpec("cpu", {}, 1), start=False):
        say(json.dumps({"kind": NO_CLUSTER}))
        return
    if config.autoscale:
        _await_node(config)
    nodes = [node for node in ray.nodes() if node["Alive"] and _of_kind(config, node)]
    if not nodes:
        what = f"no node of the Ray cluster has the accelerator {config.accelerator}; see `ray status -v`"
        raise InputError(Fault(what, key="worker.accelerator"))
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = ray.remote(num_cpus=0, max_retries=0)(_memory)
    try:
        found = ray.get([asked.options(scheduling_strategy=one).remote() for one in there], timeout=120.0)
    except RayError as error:
        what = f"a node of the Ray cluster cannot run meshtune: {first_line(error)}. Install meshtune there too"
        raise InputError(Fault(what, key="worker")) from error
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
    shares = [memory // count for (memory, _), count in zip(found, cpus, strict=True) if count]
    memories = [size for _, sizes in found for size in sizes]
    each = [int(node["Resources"].get("GPU", 0)) for node in nodes]
    if any(each):  # a trial's are on one node
        refuse_fewer(config.devices_per_trial, max(each), "GPU on the node that has most")
    gpus = sum(count - count % config.devices_per_trial for count in each)
    fields = {"gpus": gpus, "gpu_memory": min(memories, default=None), "cpus": cpus, "memory": min(shares, default=0)}
    say(json.dumps({"kind": NODES, **fields}))


def place_of(config: WorkerConfig, spec: ProcessSpec) -> dict[str, dict[str, Any]]:
    """What Ray is to give a process, all of it on one node."""
    gpus = spec.gpus
    labels = {} if config.accelerator is None else {"ray.io/accelerator-type": config.accelerator}
    resources = {"CPU": gpus or spec.devices * (spec.threads or 1), **({"GPU": gpus} if gpus else {})}
    return {"resources": resources, "labels": labels}


def _await_node(config: WorkerConfig) -> None:
    """Have a node that can hold a process, so that it can be asked what it has. Raises InputError."""
    each = config.devices_per_trial
    spec = ProcessSpec("cpu", {}, config.threads, each, gpus=0 if config.accelerator is None else each)
    wish, until = Wish(place_of(config, spec)), time.monotonic() + NODE_SECONDS
    while not any(_fit(node["Resources"], spec) for node in ray.nodes() if node["Alive"] and _of_kind(config, node)):
        wish.want(1)  # lapses by itself, or the processes' own takes its place
        if time.monotonic() > until:
            wish.end()
            what = f"the autoscaler of the Ray cluster gave no node for a trial within {NODE_SECONDS / 60:g} minutes"
            raise InputError(Fault(f"{what}; see `ray status`", key="worker.autoscale"))
        time.sleep(1.0)


def _of_kind(config: WorkerConfig, node: dict[str, Any]) -> bool:
    return config.accelerator in (None, (node.get("Labels") or {}).get("ray.io/accelerator-type"))


def _memory() -> tuple[int, list[int]]:
    """On a node: its free memory and that of each GPU as a whole, in bytes."""
    return memory_available() or 0, [int(line.split()[0]) * 2**20 for line in query_gpus("memory.total")]


def processes_that_fit(config: WorkerConfig, spec: ProcessSpec) -> int:
    """How many processes the nodes that are alive have room for, whatever runs on them now."""
    if config.processes is not None:
        return config.processes
    return sum(_fit(node["Resources"], spec) for node in ray.nodes() if node["Alive"] and _of_kind(config, node))


def _fit(resources: dict[str, float], spec: ProcessSpec) -> int:
    if spec.gpus:
        return int(resources.get("GPU", 0)) // spec.gpus
    return int(resources.get("CPU", 0) // ((spec.threads or 1) * spec.devices))


def refuse_without_node(config: WorkerConfig, spec: ProcessSpec) -> None:
    """Raise InputError where no node that is alive can hold a process."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(_fit(resources, spec) for resources in alive):
        return
    gpus = "a GPU" if spec.devices == 1 else f"{spec.devices} GPUs of one node"
    need = gpus if spec.gpus else f"{(spec.threads or 1) * spec.devices} CPUs"
    kind = "GPU" if spec.gpus else "CPU"
    have = ", ".join(f"{resources.get(kind, 0):g}" for resources in alive)
    raise InputError(Fault(f"a trial needs {need}; the nodes of the Ray cluster have {have} {kind}s", key="worker"))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
