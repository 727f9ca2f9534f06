"""What is known of a step: `steps/NAME.json` in the results' folder, with its processor time over all of its starts.

A start that ended, in whatever way, is counted by the run; one whose run was killed by the step itself, as it ends.
What it does not do: count processes that are not the step's children, such as those of a cluster's nodes, and what a
script takes whose run was killed.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.system import whole_file


def read(path: Path) -> dict[str, Any]:
    """The facts of a step; none where it was never begun, or the file is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, facts: Mapping[str, Any], *, more: float = 0.0) -> None:
    """Note the facts, with so many more seconds of processor time. Raises StorageError."""
    used = round(facts.get("processor_seconds", 0.0) + more, 1)
    with whole_file.writing(path):
        whole_file.write(path, json.dumps({**facts, "processor_seconds": used}))


def children() -> float:
    """Seconds of processor time of this process's children that have ended, and of theirs."""
    return _seconds(resource.RUSAGE_CHILDREN)


def own() -> float:
    """The same of this process and its children."""
    return _seconds(resource.RUSAGE_SELF) + children()


def _seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime
