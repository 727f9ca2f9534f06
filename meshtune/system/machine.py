"""What this machine has: its cores, and its NVIDIA GPUs as the driver's tool tells of them, without loading torch."""

from __future__ import annotations

import os
import shutil
import subprocess


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_smi(*arguments: str) -> list[str]:
    """The lines that `nvidia-smi` prints; none where there is no such tool, or it fails or hangs."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def query_gpus(quantities: str, *arguments: str) -> list[str]:
    """A line a GPU with these quantities, such as `name,memory.total`."""
    return nvidia_smi(f"--query-gpu={quantities}", "--format=csv,noheader", *arguments)


def nvidia_gpus() -> list[str]:
    """The GPUs by number and name, whether CUDA may use them or not."""
    return [line.partition("(")[0].strip() for line in nvidia_smi("--list-gpus") if line.startswith("GPU ")]


def visible_gpus() -> list[str]:
    """Numbers or names of the GPUs that CUDA would use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(nvidia_gpus())]
