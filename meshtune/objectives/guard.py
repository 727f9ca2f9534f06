"""A program that runs another one and kills it, with all its children, when its own standard input ends.

`python guard.py REPORT_FD -- PROGRAM ARGS..`: the objective starts the user's program through it, so that the program
dies when whoever started it dies, however that happens. What left the program's process group, as a daemon does, is
found by a mark in its environment (Linux), unless it cleared that. It reports `exit CODE` or `failed WORDS` on
REPORT_FD. A byte on its standard input asks the program to end by itself (SIGTERM to its process group).
Standard library only, started with `-S -E`, so that it costs a few milliseconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

MARK = "MESHTUNE_TRIAL"  # in the environment of all that a trial's program starts: the study's folder and the trial
END_SECONDS = 60.0  # for killed processes to be gone


def main() -> None:
    """Run the program, watch the pipe, report how it ended."""
    # As `meshtune.system.child_start` does, which is not imported, to start fast.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
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
    while os.read(0, 1):  # the end of the pipe is what it waits for
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGTERM)
    _kill(group)
    os._exit(1)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended already
        os.killpg(group, signal.SIGKILL)
    if mark := os.environ.get(MARK):
        end_marked(mark)


def end_marked(mark: str) -> list[int]:
    """Kill all other processes of a mark, and wait until they are gone; those that are not."""
    deadline = time.monotonic() + END_SECONDS
    while (left := marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return left


def marked(mark: str) -> list[int]:
    """Other processes of a mark; none where the system does not tell."""
    entry, found = os.fsencode(f"{MARK}={mark}"), []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:  # another user's, or gone
                if entry in file.read().split(b"\0"):
                    found.append(int(name))
    return found


if __name__ == "__main__":
    main()
