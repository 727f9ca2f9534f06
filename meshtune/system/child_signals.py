"""Signals in child processes: what ends a run is the coordinator's affair, and a child waits to be told.

A batch system may signal every process of a job at once. A worker that died of it could not save its trial. Children
end when their input ends, so none outlives its coordinator. Standard library only.
"""

from __future__ import annotations

import signal

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def leave_to_the_coordinator() -> None:
    """Let these signals pass. By handlers, which programs that are started from here do not inherit, as they would what
    is ignored.
    """
    for name in NAMES:
        if hasattr(signal, name):  # the last three are not everywhere
            signal.signal(getattr(signal, name), lambda *_: None)
