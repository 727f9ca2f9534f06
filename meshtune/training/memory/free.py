"""How much memory new processes may take on a device, as the system says and as control groups allow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from meshtune.system.machine import query_gpus


def available(device: str, gpus: Sequence[str] = ()) -> int | None:
    """Bytes that new processes may take on a device now, all of them together; None where it cannot be known.

    On a CPU what the system can free without swapping, less where a control group (a container, a batch job) allows
    less. On CUDA what is free on the one of `gpus` (numbers or names; none: torch's first) that has least; it is asked
    of `nvidia-smi`, since asking CUDA would itself take half a gigabyte there. Not run on a GPU yet.
    """
    match torch.device(device).type:
        case "cpu":
            return _cpu_available(Path("/"))
        case "cuda":
            return _gpu_free(gpus) or int(torch.cuda.mem_get_info()[0])
        case "mps":
            return int(torch.mps.recommended_max_memory())
        case _:
            return None


def _cpu_available(root: Path) -> int | None:
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


def _gpu_free(gpus: Sequence[str]) -> int | None:
    lines = query_gpus("memory.free", "-i", ",".join(gpus)) if gpus else []
    free = [int(words[0]) for line in lines if (words := line.split())[0].isdigit()]  # MiB
    return min(free) << 20 if free else None
