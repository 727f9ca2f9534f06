"""A program of its own that is talked to: JSON lines to its standard input, JSON lines out of its standard output.

What it prints beside them goes to a log, whose last words stand in the error where it dies or hangs. It lives in a
session of its own, which keeps the terminal's Ctrl-C away, and ends when its input does, so with its parent.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, final

from meshtune.errors import SamplerError

HANG_SECONDS = 300.0
JSON = (b"{", b"[", b"null")  # how answers begin; what Python itself may print as it starts is passed over
Died = Callable[[int, Sequence[str]], type[SamplerError]]  # (exit code, last words)


@final
class Child:
    """A running program; `close` ends it.

    Args:
        command: that starts it. log: a file to which its words are added; None: one of its own, without a name.
        environment: beside our own.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path | None = None, environment: Mapping[str, str] | None = None
    ):
        self._log = tempfile.TemporaryFile("a+b") if log is None else log.open("a+b")  # noqa: SIM115 (lives as long)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        except OSError:
            self._log.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdout, self._process.stdin
        self._part = b""
        self.hung = False  # whether it was killed, since it gave no answer
        self._close = weakref.finalize(self, _close, self._process, self._log)  # also where nobody closes it

    @property
    def pid(self) -> int:
        """The program's process number."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return self._process.poll() is not None

    def fileno(self) -> int:
        """Of what it says, for a selector."""
        return self._in.fileno()

    def send(self, message: object) -> None:
        """A line to the program. Raises OSError where it is gone."""
        self._out.write(json.dumps(message).encode() + b"\n")
        self._out.flush()

    def read(self) -> list[str] | None:
        """The whole lines of what has come, waiting for some of it; None where it has ended."""
        data = os.read(self.fileno(), 1 << 20)
        *lines, self._part = (self._part + data).split(b"\n")
        return [line.decode() for line in lines if line.startswith(JSON)] if data else None

    def receive(self, seconds: float) -> bytes:
        """Its next line; not a whole one where it has ended, or is killed since it gave none in so many seconds.

        They are counted, not taken from the clock: a machine that stood still is not the program's delay.
        """
        answered = threading.Event()

        def watch() -> None:
            left = seconds
            while left > 0 and not answered.wait(1.0):
                left -= 1
            if not answered.is_set():
                self.hung = True
                self._process.kill()

        threading.Thread(target=watch, daemon=True).start()
        while (line := self._in.readline()) and not line.startswith(JSON):
            continue
        answered.set()
        return line

    def words(self) -> list[str]:
        """The lines of its log."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip().splitlines()

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def kill(self) -> int:
        """End it and wait for it; its exit code. What it said can still be read."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        """End it, wait for it and let go of it. May be called twice."""
        self._close()


def _close(child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it may be gone already
        if child.stdin is not None:
            child.stdin.close()
    if child.poll() is None:
        child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
    log.close()


@final
class SamplerChild:
    """A program that proposes points: one line out, one line back. Its death or hang is a SamplerError.

    Args:
        name: what errors call it. program: its path. python: the interpreter. died: which error its death is.
    """

    def __init__(self, name: str, program: Path, *, python: str = sys.executable, died: Died = lambda *_: SamplerError):
        self._name, self._died = name, died
        self._child = Child([python, str(program)], environment={"OMP_NUM_THREADS": "1"})
        self.pid, self.words, self.close = self._child.pid, self._child.words, self._child.close

    def send(self, message: object) -> None:
        """A line to the program. Raises SamplerError where it died."""
        try:
            self._child.send(message)
        except OSError:
            self._fail()

    def receive(self) -> Any:
        """Its next line. Raises SamplerError where it died or hangs."""
        line = self._child.receive(HANG_SECONDS)
        if not line.endswith(b"\n"):
            self._fail()
        return json.loads(line)

    def _fail(self) -> NoReturn:
        code, words, hung = self._child.kill(), self.words()[-5:], self._child.hung
        self.close()
        raise (SamplerError if hung else self._died(code, words))(
            f"{self._name}'s child process (pid {self.pid})"
            f" {f'gave no answer for {HANG_SECONDS:.0f} seconds' if hung else 'died'}, exit code {code}."
            + (" Its last words: " + " | ".join(words) if words else " It said nothing.")
            + " The study is safe: run the same again."
        )
