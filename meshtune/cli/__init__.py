"""The command line: options, the view of a run, and what is printed; nothing that decides.

`main` is the command `meshtune`. This file imports next to nothing, so that signals have their meaning before the rest
is imported, which takes a good part of a second.
"""

import os
import signal
import sys


def main() -> None:
    """Run the command that the arguments name; ends the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell ignores it, and so do we
        signal.signal(signal.SIGINT, _interrupted)
    if sys.argv[1:2] in (["tune"], ["quickstart"]):  # until the run takes them: what a batch system ends goes on later
        for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
                signal.signal(getattr(signal, name), lambda *_: os._exit(75))
    from meshtune.cli.commands import run

    run(_interrupted)


def _interrupted(*_: object) -> None:
    """End at once: while modules are imported, an exception could be taken for a missing one, or print a traceback."""
    os.write(2, b"meshtune: interrupted\n")
    os._exit(130)
