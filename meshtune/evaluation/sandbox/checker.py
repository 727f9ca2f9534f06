"""A program that judges completions: it runs the problems' tests itself, and a candidate's code in a process apart.

The problem's own code (its prompt, canonical solution and test) is trusted and runs here; in it `candidate`, and the
entry point's own name, are calls into the candidate's process. Helpers that a prompt defines are those of the prompt,
so a completion that redefines them does not change its judge. Python's random numbers start from the same seed for
each problem. Standard library only.

Argument: JSON of {"limits": .., "unsafe": ..}. Standard input: a JSON line a completion ({"problem": ..,
"completion": ..}), answered on what was standard output by one: {"passed", "reason", "seconds"} or {"error": text}. It
ends with its input.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from meshtune.evaluation.sandbox.candidate import REASON, Candidate, CandidateFailed, Sandbox, SandboxError, ending
from meshtune.evaluation.sandbox.limits import START_SECONDS, Limits
from meshtune.evaluation.sandbox.values import NotLiteral
from meshtune.system.child_start import answers

TICK = 0.25  # seconds
STACK = 8 * 2**20  # bytes; a thread is given as much of a candidate's memory
NOT_FOR_CHILDREN = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class TimeOver(BaseException):
    """The alarm of `deadline`. Not an Exception, so that no test code catches it."""


class Killed(Exception):
    """The candidate was killed: by itself, or by a machine that had run out of memory."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeOver in the block after `seconds`, also while it waits for a pipe.

    Time is counted in ticks: however long a machine stood still, that is one. A tick that comes late since this process
    was at work counts as that work. What is raised may be swallowed by a finalizer, so each later tick raises again.
    """
    tick = min(TICK, seconds / 2)
    left, worked = seconds, time.process_time()

    def over(*_: object) -> None:
        nonlocal left, worked
        before, worked = worked, time.process_time()
        left -= max(tick, worked - before)
        if left < tick / 2:
            raise TimeOver

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, tick, tick)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def trusted(problem: dict[str, str]) -> dict[str, Any]:
    """What the problem's own code defines: its prompt, completed by its own solution, and its test."""
    defined: dict[str, Any] = {}
    try:
        for name, text in (
            ("<problem>", problem["prompt"] + problem["canonical_solution"]),
            ("<test>", problem["test"]),
        ):
            # With its asserts, and without this file's own future import.
            exec(compile(text, name, "exec", dont_inherit=True, optimize=0), defined)
    except Exception as error:
        raise SandboxError(f"the problem's own code fails: {error}") from error
    if not callable(defined.get("check")):
        raise SandboxError("the problem's test defines no function `check`")
    return defined


class Judge:
    """Judges one completion after another in one sandbox, which is started anew where it fails."""

    def __init__(self, limits: Limits, unsafe: bool):
        self._limits, self._unsafe = limits, unsafe
        self._sandbox: Sandbox | None = None

    def reply(self, problem: dict[str, str], completion: str) -> dict[str, object]:
        """The reply to one request."""
        begin = time.perf_counter()
        try:
            try:
                reason = self._reason(problem, completion)
            except (Killed, SandboxError):  # if the machine did it, it rarely does it twice
                reason = self._reason(problem, completion)
        except Killed as killed:
            reason = str(killed)
        except SandboxError as error:
            return {"error": f"{problem['task_id']}: {error}"}
        return {
            "passed": reason is None,
            "reason": "passed" if reason is None else printable(reason),
            "seconds": time.perf_counter() - begin,
        }

    def _reason(self, problem: dict[str, str], completion: str) -> str | None:
        """Why the completion does not pass, or None. Raises Killed and SandboxError."""
        defined = trusted(problem)
        try:
            with deadline(START_SECONDS):
                sandbox = self._ready()
                candidate = sandbox.begin()
            reason = tried(candidate, problem, completion, defined, self._limits)
            with deadline(START_SECONDS):
                code = sandbox.end(candidate)
        except TimeOver:
            self._close()
            raise SandboxError(f"the sandbox did not answer in {START_SECONDS} s") from None
        except SandboxError:
            self._close()
            raise
        if candidate.ended:
            reason = ending(code, self._limits)
            if code == -signal.SIGKILL:
                raise Killed(reason)
        return reason

    def _ready(self) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = Sandbox(self._limits, self._unsafe)
            self._sandbox.wait_until_ready()
        return self._sandbox

    def _close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


def tried(
    candidate: Candidate, problem: dict[str, str], completion: str, defined: dict[str, Any], limits: Limits
) -> str | None:
    """Why the candidate fails the test, or None. Raises SandboxError where the test cannot be run on it."""
    random.seed(0)
    try:
        with deadline(limits.wall_seconds):
            candidate.define(problem["prompt"] + completion, problem["entry_point"])
            defined[problem["entry_point"]] = candidate
            defined["check"](candidate)
    except CandidateFailed as failure:
        return str(failure)
    except TimeOver:
        return f"it took more than {limits.wall_seconds:g} s"
    except (NotLiteral, OSError, MemoryError) as error:  # the latter two: of this process, so the machine's
        raise SandboxError(f"its test cannot be run on a sandboxed candidate: {error!r}") from error
    except Exception as error:  # the test's: a wrong answer, or one of a type that it cannot work on
        return f"{failed_line(error, problem['test'])} ({type(error).__name__})"
    return None


def failed_line(error: Exception, test: str) -> str:
    """The line of the test that raised."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    return test.splitlines()[numbers[0] - 1].strip() if numbers and numbers[0] else "the test failed"


def printable(text: str) -> str:
    """Text that a candidate may have written, short and without what a terminal would act upon."""
    return "".join(character if character.isprintable() else " " for character in text)[:REASON]


def main() -> None:
    """Answer requests until there are no more."""
    replies, settings = answers(), json.loads(sys.argv[1])
    # A signal to the whole job must not end a sandbox and so become a verdict; children inherit what is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in NOT_FOR_CHILDREN])
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]  # a process's threads have what its start found
    resource.setrlimit(resource.RLIMIT_STACK, (STACK if most == resource.RLIM_INFINITY else min(STACK, most), most))
    judge = Judge(Limits(**settings["limits"]), settings["unsafe"])
    for line in sys.stdin.buffer:
        request = json.loads(line)
        print(json.dumps(judge.reply(request["problem"], request["completion"])), file=replies, flush=True)


if __name__ == "__main__":
    main()
