"""A sandbox and the candidates in it, one after another, as the checker sees them.

Whatever a candidate's process does after it is up is its own doing and ends in CandidateFailed. What goes wrong before,
or with the sandbox around it, is the machine's and ends in SandboxError. Nothing here waits for a limited time: the
caller sets an alarm. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from meshtune.errors import MeshtuneError
from meshtune.evaluation.sandbox import bubblewrap
from meshtune.evaluation.sandbox.limits import Limits
from meshtune.evaluation.sandbox.values import Malformed, decode, literal

SOURCE = Path(__file__).with_name("candidate_process.py")
READY = b"ready"  # this and the next: see candidate_process
NOT_YET = 256
REASON = 300  # characters of a verdict


class SandboxError(MeshtuneError):
    """The sandbox itself failed: no verdict was reached."""


class CandidateFailed(BaseException):
    """The candidate broke a limit, raised, or gave no value. Not an Exception, so that no test code catches it."""


class Candidate:
    """A process that is given code and answers calls of its entry point, over two pipes."""

    def __init__(self, calls: int, answers: int, limits: Limits):
        self._calls, self._answers, self._most = calls, answers, limits.answer
        self.ended = False  # its answers are over

    def is_ready(self) -> bool:
        """Wait until its limits hold and none of its code has run. False: it ended before."""
        with contextlib.suppress(CandidateFailed):
            return self._receive() == READY
        return False

    def define(self, program: str, entry_point: str) -> None:
        """Run the program's text. Raises CandidateFailed where that fails."""
        self._send((program, entry_point))
        self._answer()

    def __call__(self, *arguments: object, **keywords: object) -> object:
        """What the entry point returns. Raises CandidateFailed, or NotLiteral where an argument cannot be sent."""
        self._send((arguments, keywords))
        return self._answer()

    def close(self) -> None:
        """Close the pipes."""
        os.close(self._calls)
        os.close(self._answers)

    def _answer(self) -> object:
        answer = self._receive()
        if answer[:1] == b"!":
            raise CandidateFailed(answer[1:].decode(errors="replace"))
        if answer[:1] != b"=":
            raise CandidateFailed("the answer is no value")
        try:
            return decode(answer[1:])
        except Malformed as error:
            raise CandidateFailed(f"the answer is no value: {error}") from None

    def _send(self, value: object) -> None:
        data = literal(value).encode("utf-8", "surrogatepass")
        rest = memoryview(len(data).to_bytes(4, "big") + data)
        try:
            while rest:
                rest = rest[os.write(self._calls, rest) :]
        except BrokenPipeError:
            raise self._over() from None

    def _receive(self) -> bytes:
        size = int.from_bytes(self._read(4), "big")
        if size > self._most:
            raise CandidateFailed(f"the answer has {size} bytes; {self._most} are allowed")
        return self._read(size)

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._answers, count)
            if not part:
                raise self._over()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _over(self) -> CandidateFailed:
        self.ended = True
        return CandidateFailed("it gave no more answers")


class Sandbox:
    """A started sandbox. It holds one candidate at a time, of which nothing is left when the next comes. Close it."""

    def __init__(self, limits: Limits, unsafe: bool):
        self._limits = limits
        arguments = ["-c", SOURCE.read_text(encoding="utf-8"), *limits.rlimits(sandboxed=not unsafe)]
        self._control, inside = socket.socketpair()
        try:
            self._process = (start_bare if unsafe else bubblewrap.start)(arguments, inside.fileno())
        except (OSError, subprocess.SubprocessError) as error:
            self._control.close()
            raise SandboxError(f"no sandbox could be started: {error}") from error
        finally:
            inside.close()

    def wait_until_ready(self) -> None:
        """Return when it can take a candidate. Raises SandboxError."""
        if self._hear(len(READY)) != READY:
            raise self._failed()

    def begin(self) -> Candidate:
        """A new process that is ready for a completion. Raises SandboxError."""
        far_calls, calls = os.pipe()
        answers, far_answers = os.pipe()
        candidate = Candidate(calls, answers, self._limits)
        try:
            socket.send_fds(self._control, [b"c"], [far_calls, far_answers])
        except OSError:
            candidate.close()
            raise self._failed() from None
        finally:
            os.close(far_calls)
            os.close(far_answers)
        if not candidate.is_ready():
            candidate.close()
            raise self._failed()
        return candidate

    def end(self, candidate: Candidate) -> int:
        """End it and all that it started; its exit code (negative: a signal), or NOT_YET where it still ran."""
        candidate.close()
        try:
            self._control.sendall(b"w" if candidate.ended else b"e")
        except OSError:
            raise self._failed() from None
        code = self._hear(4)
        if len(code) < 4:
            raise self._failed()
        return int.from_bytes(code, "big", signed=True)

    def close(self) -> None:
        """End it and all that runs in it."""
        self._process.kill()
        self._process.wait()
        self._control.close()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _hear(self, count: int) -> bytes:
        """What the sandbox says, cut off where it has ended."""
        said = b""
        with contextlib.suppress(ConnectionError):
            while len(said) < count and (part := self._control.recv(count - len(said))):
                said += part
        return said

    def _failed(self) -> SandboxError:
        """Its last words."""
        self._process.kill()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip()
        return SandboxError(f"the sandbox ended: {said[-2000:] or 'it said nothing'}")


def ending(code: int, limits: Limits) -> str:
    """Why a candidate gave no more answers, from its exit code."""
    if code == -signal.SIGXCPU:
        return f"it used more than {limits.cpu_seconds} s of processor time"
    if code == NOT_YET:
        return "it closed its answers"
    return f"it was ended by signal {-code}" if code < 0 else f"it ended itself (exit code {code})"


def start_bare(arguments: list[str], control: int) -> subprocess.Popen[bytes]:
    """Without a sandbox: limits of resources are all that holds. See `bubblewrap.start`."""
    return subprocess.Popen(
        [str(bubblewrap.interpreter() or sys.executable), *bubblewrap.OPTIONS, *arguments],
        stdin=control,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=bubblewrap.ENVIRONMENT,
        cwd="/",  # Python would import what lies in the working folder
        start_new_session=True,
    )
