"""A program that runs another one and kills it, with all its children, when its own standard input ends.

`python guard.py REPORT_FD -- PROGRAM ARGS..`: the objective starts the user's program through it, so that the program
dies when whoever started it dies, however that happens. It reports `exit CODE` or `failed WORDS` on REPORT_FD.
Standard library only, started with `-S -E`, so that it costs a few milliseconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Run the program, watch the pipe, report how it ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)  # as `meshtune.child_signals`, which is not imported, to start fast
    report = int(sys.argv[1])
    try:
        program = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        os.write(report, f"failed {error.strerror}: {error.filename}".encode())
        os._exit(0)
    threading.Thread(target=_watch, args=(program.pid,), daemon=True).start()
    code = program.wait()
    _kill(program.pid)  # what it may have left behind
    os.write(report, f"exit {code}".encode())
    os._exit(0)


def _watch(group: int) -> None:
    while os.read(0, 1):  # nothing is ever written: this waits for the end of the pipe
        continue
    _kill(group)
    os._exit(1)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended already
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
