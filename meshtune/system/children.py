"""A program of its own that a sampler talks to: one JSON line out, one JSON line back.

The program is started by its path. Its standard input brings messages, its standard output carries answers, and what it
prints beside them goes to a log, whose last words stand in the error where it dies, hangs or cannot be written to.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from meshtune.errors import SamplerError

HANG_SECONDS = 300.0
Died = Callable[[int, Sequence[str]], type[SamplerError]]  # (exit code, last words)


class Child:
    """A running program; `close` ends it, and so does the end of the parent.

    Args:
        name: what errors call it. program: its path. python: the interpreter. died: which error its death is.
    """

    def __init__(self, name: str, program: Path, *, python: str = sys.executable, died: Died = lambda *_: SamplerError):
        self._name, self._died = name, died
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (lives as long as the child, which writes at its end)
        self._child = subprocess.Popen(
            [python, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # keeps the terminal's Ctrl-C away
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdout, self._child.stdin
        self._end = weakref.finalize(self, _end, self._child, self._log)  # also where nobody closes it

    @property
    def pid(self) -> int:
        """The program's process number."""
        return self._child.pid

    def send(self, message: object) -> None:
        """A line to the program. Raises SamplerError where it died."""
        try:
            self._out.write(json.dumps(message).encode() + b"\n")
            self._out.flush()
        except OSError:
            self._fail("died")

    def receive(self) -> Any:
        """Its next line. Raises SamplerError where it died or hangs."""
        hung = threading.Event()

        def end_it() -> None:
            hung.set()
            self._child.kill()

        watch = threading.Timer(HANG_SECONDS, end_it)
        watch.daemon = True
        watch.start()
        line = self._in.readline()
        watch.cancel()
        if not line.endswith(b"\n"):
            self._fail(f"gave no answer for {HANG_SECONDS:.0f} seconds" if hung.is_set() else "died", hung.is_set())
        return json.loads(line)

    def words(self) -> list[str]:
        """The lines of its log."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip().splitlines()

    def close(self) -> None:
        """End the program and wait for it. May be called twice."""
        self._end()

    def _fail(self, what: str, hung: bool = False) -> None:
        if self._child.poll() is None:
            self._child.kill()
        code = self._child.wait()
        words = self.words()[-5:]
        self.close()
        raise (SamplerError if hung else self._died(code, words))(
            f"{self._name}'s child process (pid {self._child.pid}) {what}, exit code {code}."
            + (" Its last words: " + " | ".join(words) if words else " It said nothing.")
            + " The study is safe: run the same again."
        )


def _end(child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it may be gone already
        if child.stdin is not None:
            child.stdin.close()
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
    log.close()
