"""What this machine has: its cores, its free memory, and its NVIDIA GPUs as their driver's tool tells. No torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


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


def memory_available(root: Path = Path("/")) -> int | None:
    """Bytes that the system can free without swapping, less where a control group (a container, a job) allows less.

    None where it cannot be known. `root` is where the system's files are.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.M)
    except OSError:
        found = None
    if found is None:  # not Linux: all that is built in
        names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
        known = getattr(os, "sysconf_names", {})
        return os.sysconf(names[0]) * os.sysconf(names[1]) if all(name in known for name in names) else None
    return min([int(found[1]) * 1024, *_group_rooms(root)])


def _group_rooms(root: Path) -> Iterator[int]:
    """What each control group that this process is in, of version 1 or 2, and each above it still allows."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        if controllers == "memory":
            mount, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            try:
                limit, used = ((mount / group / name).read_text().strip() for name in names[:2])
                cached = re.search(rf"^{names[2]} (\d+)", (mount / group / "memory.stat").read_text(), re.M)
            except OSError:  # a container sees its own group only, as the root
                continue
            if limit != "max":
                yield max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0))
