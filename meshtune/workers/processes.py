"""Which processes a machine gets: one a visible GPU; on a CPU as many as are asked for, which share the cores."""

from __future__ import annotations

import os
import shutil
import subprocess

from meshtune.config.sections import WorkerConfig
from meshtune.workers.local import Place


def places(config: WorkerConfig, device: str) -> list[Place]:
    """The places for a torch device kind (`cpu`, `cuda`, `mps`). CUDA_VISIBLE_DEVICES is respected.

    Not run on a GPU yet.
    """
    if device == "cuda":
        visible = visible_gpus() or ["0"]  # torch sees one where nvidia-smi does not: ROCm, and some containers
        count = config.processes or len(visible)
        return [
            Place("cuda", {"CUDA_VISIBLE_DEVICES": visible[index % len(visible)]}, config.threads)
            for index in range(count)
        ]
    count = config.processes or 1
    threads = config.threads or max(1, cores() // count)
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    if count > 1:
        environment["OMP_WAIT_POLICY"] = "passive"  # thread pools that spin ruin each other
    return [Place(device, environment, threads) for _ in range(count)]


def visible_gpus() -> list[str]:
    """Numbers or names of the GPUs that CUDA would use, found without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    told = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(told.stdout.splitlines()) if line.startswith("GPU ")]


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
