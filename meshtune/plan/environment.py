"""What a study is run with: versions of the packages and facts about the machine, for the record and its reports.

Loads none of the packages. Holds no name of the machine or of its user.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from meshtune._version import __version__
from meshtune.record.log import Record
from meshtune.system.machine import query_gpus

PACKAGES = ("torch", "transformers", "peft", "accelerate", "optuna", "PyNomadBBO", "numpy", "scipy")
_CPU = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Versions of meshtune, Python and the packages that results depend on, as they are installed here."""
    found = {"meshtune": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(devices: Sequence[str], threads: int | None) -> dict[str, Any]:
    """System, processor, cores, GPUs, and what trials run on: devices (one a process) and threads a process."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": query_gpus("name,memory.total") if any(device.startswith("cuda") for device in devices) else [],
        "devices": list(devices),
        "threads": threads,
    }


def note_in(record: Record, devices: Sequence[str], threads: int | None) -> None:
    """Note in the record what it is run with, where this is new: a search may go on with other versions, elsewhere."""
    now = {"versions": versions(), "machine": machine(devices, threads)}
    before = record.notes.get("ran_on") or []
    if not before or before[-1] != now:
        record.note("ran_on", [*before, now])


def _processor() -> str:
    if _CPU.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", _CPU.read_text(), re.M)):
        return found[1].strip()
    return platform.processor() or platform.machine()
