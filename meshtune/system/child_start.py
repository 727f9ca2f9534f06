"""Starts a module of this package as a program in a Python process of its own: `command`; and its signals there.

`python -m` puts the working folder before all else, so that a file of the user's, such as a `random.py`, would take the
place of a module of the standard library. Here the package is the one that starts the process, wherever it lies, and
the working folder comes last, so that a user's own module is found in it. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

PACKAGE = Path(__file__).resolve().parents[1]
BEAT = "Beat"  # the kind of a line that is a sign of life
BEAT_SECONDS = 5.0
Say = Callable[[str], None]
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # a batch system may send them to all of a job


def command(module: str, *arguments: str, isolated: bool = False) -> list[str]:
    """The command line that runs `module` with this interpreter.

    `isolated`: neither the working folder nor Python's environment variables count.
    """
    return [sys.executable, "-I" if isolated else "-P", __file__, module, *arguments]


def leave_signals_to_the_coordinator() -> None:
    """What ends a run is the coordinator's affair: a worker that died of a signal could not save its trial.

    Children end when their input ends, so none outlives its coordinator. Handlers, and not `SIG_IGN`, which programs
    that are started from here would inherit.
    """
    for name in SIGNALS:
        if hasattr(signal, name):  # the last three are not everywhere
            signal.signal(getattr(signal, name), lambda *_: None)


def answers() -> TextIO:
    """What was standard output, for answers alone: whatever else is printed from here on goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def log_to(path: Path) -> None:
    """From here on, what is printed goes to the end of this file."""
    with path.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


def say_line() -> Say:
    """What writes a line, whole also where two threads do."""
    out, lock = answers(), threading.Lock()

    def say(line: str) -> None:
        with lock:
            print(line, file=out, flush=True)

    return say


def beat(say: Say) -> None:
    """Show that this process is at work, however long it loads; one that is frozen does not."""
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        while True:
            time.sleep(BEAT_SECONDS)
            say(json.dumps({"kind": BEAT}))


def begin() -> tuple[Say, Any] | None:
    """What a worker's program does first: leave signals alone, show that it lives, and read its first line.

    Gives what writes answers, and that line's value; None: the input has ended already.
    """
    leave_signals_to_the_coordinator()
    say = say_line()
    threading.Thread(target=beat, args=(say,), daemon=True).start()
    line = sys.stdin.readline()
    return (say, json.loads(line)) if line else None


def main() -> None:
    """Run the module that the first argument names, with the others."""
    sys.path.append(str(PACKAGE.parent))
    if not sys.flags.isolated:
        sys.path.append(os.getcwd())
    spec = importlib.util.spec_from_file_location(PACKAGE.name, PACKAGE / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE.name] = importlib.util.module_from_spec(spec)  # whatever else of that name is installed
    spec.loader.exec_module(sys.modules[PACKAGE.name])
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
