"""What code that a model wrote may use. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshtune.errors import Fault, refuse

RANGES = {  # least and most of each limit: below, the interpreter itself cannot work; above, the kernel knows no number
    "cpu_seconds": (1, 10**6),
    "wall_seconds": (0.1, 10**6),
    "memory": (64 * 2**20, 2**62),
    "processes": (1, 10**6),
    "open_files": (16, 10**6),
    "answer": (64, 2**31),
}
START_SECONDS = 60  # in which a sandbox must be up; a machine that takes longer is at fault, not the candidate


@dataclass(frozen=True)
class Limits:
    """Limits of one candidate. Raises InputError where one is not within its RANGES.

    Attributes:
        cpu_seconds: processor time of each of its processes, whole seconds. It does not depend on how busy the machine
            is, so it is the limit that ends an endless loop.
        wall_seconds: time from the first line of its code to the last answer, the test's own work included.
        memory: bytes of address space of each of its processes.
        processes: processes and threads at once. As an ordinary user and as root; not without the sandbox.
        open_files: file descriptors of each process.
        answer: bytes of one answer.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 15.0
    memory: int = 512 * 2**20
    processes: int = 4
    open_files: int = 64
    answer: int = 2**20

    def __post_init__(self) -> None:
        faults = []
        for name, (least, most) in RANGES.items():
            value, whole = getattr(self, name), name != "wall_seconds"
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not (right and least <= value <= most):
                kind = "whole number" if whole else "number"
                faults.append(Fault(f"is {value!r}; it must be a {kind} from {least} to {most}", key=f"Limits.{name}"))
        refuse(faults)

    def rlimits(self, sandboxed: bool) -> Iterator[str]:
        """`NAME=soft:hard` for the candidate's process. An ordinary user's processes are counted over all of them, so
        their number is limited only where a namespace has a count of its own.
        """
        yield f"CPU={self.cpu_seconds}:{self.cpu_seconds + 1}"  # SIGXCPU, then SIGKILL if that is ignored
        fixed = {"AS": self.memory, "NOFILE": self.open_files, "FSIZE": 0, "CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0}
        if sandboxed:
            fixed["NPROC"] = self.processes + 1  # process 1 of the sandbox
        for name, most in fixed.items():
            yield f"{name}={most}:{most}"
