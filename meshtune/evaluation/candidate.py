"""One candidate: a process that defines a completion and answers calls, as the checker sees it.

Whatever the process does after it is up is the candidate's own doing and ends in CandidateFailed. What goes wrong
before is the machine's, and ends in SandboxError. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from meshtune.errors import MeshtuneError
from meshtune.evaluation import bubblewrap
from meshtune.evaluation.limits import Limits
from meshtune.evaluation.values import Malformed, decode, literal

SOURCE = Path(__file__).with_name("candidate_process.py")
READY = b"ready"
REASON = 300  # characters


class SandboxError(MeshtuneError):
    """The sandbox itself failed: no verdict was reached."""


class CandidateFailed(BaseException):
    """The candidate broke a limit, raised, or gave no value. Not an Exception, so that no test code catches it."""


class Candidate:
    """A started process. Close it, whatever happened."""

    def __init__(self, limits: Limits, unsafe: bool):
        self._limits = limits
        self._unsafe = unsafe
        arguments = ["-c", SOURCE.read_text(encoding="utf-8"), *limits.rlimits(sandboxed=not unsafe)]
        try:
            self._process = _start_bare(arguments) if unsafe else bubblewrap.start(arguments)
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(f"no sandbox could be started: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._calls, self._answers = self._process.stdin.fileno(), self._process.stdout.fileno()

    def wait_until_ready(self) -> None:
        """Return when its limits hold and none of its own code has run. Raises SandboxError."""
        try:
            if self._receive(len(READY)) == READY:
                return
        except CandidateFailed:
            pass
        self._kill()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip() or "it said nothing"
        raise SandboxError(f"the sandbox did not start: {said[-2000:]}")

    def define(self, program: str, entry_point: str) -> None:
        """Run the program's text. Raises CandidateFailed where that fails."""
        self._send(literal((program, entry_point)))
        self._answer()

    def __call__(self, *arguments: object, **keywords: object) -> object:
        """What the entry point returns. Raises CandidateFailed, or NotLiteral where an argument cannot be sent."""
        self._send(literal((arguments, keywords)))
        return self._answer()

    def close(self) -> None:
        """End the process and all that it started."""
        self._kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _kill(self) -> None:
        if self._unsafe:  # a group of its own; what left the group is not found
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _answer(self) -> object:
        answer = self._receive(self._limits.answer)
        if answer[:1] != b"=":
            raise CandidateFailed(printable(answer[1:].decode(errors="replace")))
        try:
            return decode(answer[1:])
        except Malformed as error:
            raise CandidateFailed(printable(f"the answer is no value: {error}")) from None

    def _send(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        rest = memoryview(len(data).to_bytes(4, "big") + data)
        try:
            while rest:
                rest = rest[os.write(self._calls, rest) :]
        except BrokenPipeError:
            raise self._ended() from None

    def _receive(self, most: int) -> bytes:
        size = int.from_bytes(self._read(4), "big")
        if size > most:
            raise CandidateFailed(f"the answer has {size} bytes; {most} are allowed")
        return self._read(size)

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._answers, count)
            if not part:
                raise self._ended()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _ended(self) -> CandidateFailed:
        """Why the process gives no more answers."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return CandidateFailed("it closed its answers")
        number = code - 128 if code > 128 else -code  # a shell's way of saying it, and Popen's
        if number == signal.SIGXCPU:
            return CandidateFailed(f"it used more than {self._limits.cpu_seconds} s of processor time")
        if number == signal.SIGKILL:
            return CandidateKilled("it was killed")
        return CandidateFailed(f"it crashed (signal {number})" if number > 0 else f"it ended itself (exit code {code})")


class CandidateKilled(CandidateFailed):
    """Killed, perhaps from outside: by itself, by a limit, or by a machine that had run out of memory."""


def printable(text: str) -> str:
    """Text that a candidate wrote, short and without what a terminal would act upon."""
    return "".join(character if character.isprintable() else " " for character in text)[:REASON]


def _start_bare(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Without a sandbox: limits of resources are all that holds."""
    return subprocess.Popen(
        [str(bubblewrap.interpreter() or sys.executable), *bubblewrap.OPTIONS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=bubblewrap.ENVIRONMENT,
        start_new_session=True,
    )
