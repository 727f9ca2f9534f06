"""A program that judges completions: it runs the problems' tests itself, and a candidate's code in a process apart.

The problem's own code (its prompt, canonical solution and test) is trusted and runs here; in it `candidate`, and the
entry point's own name, are calls into the candidate's process. Helpers that a prompt defines are those of the prompt,
so a completion that redefines them does not change its judge. Python's random numbers start from the same seed for
each problem. Standard library only.

Arguments: a descriptor for replies; JSON of {"limits": .., "unsafe": ..}. Standard input: a JSON line a completion
({"problem": .., "completion": ..}), answered by one: {"passed", "reason", "seconds"} or {"error": text}. It ends with
its input.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from meshtune.evaluation.candidate import Candidate, CandidateFailed, CandidateKilled, SandboxError, printable
from meshtune.evaluation.limits import START_SECONDS, Limits
from meshtune.evaluation.values import NotLiteral

NOT_FOR_CHILDREN = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class TimeOver(BaseException):
    """The alarm of `deadline`. Not an Exception, so that no test code catches it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeOver in the block after `seconds`, also while it waits for a pipe."""

    def over(*_: object) -> None:
        raise TimeOver

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def started(limits: Limits, unsafe: bool) -> Candidate:
    """A process that is ready for a completion. Raises SandboxError."""
    candidate = Candidate(limits, unsafe)
    try:
        with deadline(START_SECONDS):
            candidate.wait_until_ready()
    except TimeOver:
        candidate.close()
        raise SandboxError(f"no sandbox was up after {START_SECONDS} s") from None
    except BaseException:
        candidate.close()
        raise
    return candidate


def trusted(problem: dict[str, str]) -> dict[str, Any]:
    """What the problem's own code defines: its prompt, completed by its own solution, and its test."""
    defined: dict[str, Any] = {"__name__": "problem"}
    try:
        exec(compile(problem["prompt"] + problem["canonical_solution"], "<problem>", "exec"), defined)
        exec(compile(problem["test"], "<test>", "exec"), defined)
        if not callable(defined.get("check")):
            raise SandboxError("its test defines no function `check`")
    except Exception as error:
        raise SandboxError(f"{problem['task_id']}: the problem's own code fails: {error}") from error
    return defined


def judge(problem: dict[str, str], completion: str, limits: Limits, unsafe: bool) -> str | None:
    """Why the completion does not pass, or None. Raises SandboxError, and CandidateKilled where it was killed."""
    defined = trusted(problem)
    candidate = started(limits, unsafe)
    try:
        random.seed(0)
        with deadline(limits.wall_seconds):
            candidate.define(problem["prompt"] + completion, problem["entry_point"])
            defined[problem["entry_point"]] = candidate
            defined["check"](candidate)
    except CandidateKilled:
        raise
    except CandidateFailed as failure:
        return str(failure)
    except TimeOver:
        return f"it took more than {limits.wall_seconds:g} s"
    except (NotLiteral, SandboxError) as error:
        raise SandboxError(f"{problem['task_id']} cannot be judged in the sandbox: {error}") from error
    except Exception as error:  # the test's: a wrong answer, or one of a type that it cannot work on
        return printable(f"{failed_line(error, problem['test'])} ({type(error).__name__})")
    finally:
        candidate.close()
    return None


def failed_line(error: Exception, test: str) -> str:
    """The line of the test that raised."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<test>"]
    lines = test.splitlines()
    return lines[numbers[0] - 1].strip() if numbers and numbers[0] else "the test failed"


def verdict(problem: dict[str, str], completion: str, limits: Limits, unsafe: bool) -> dict[str, object]:
    """The reply to one request."""
    begin = time.perf_counter()
    try:
        try:
            reason = judge(problem, completion, limits, unsafe)
        except CandidateKilled:  # if the machine did it, it does it no second time
            reason = judge(problem, completion, limits, unsafe)
    except CandidateKilled as failure:
        reason = str(failure)
    except SandboxError as error:
        return {"error": str(error)}
    return {"passed": reason is None, "reason": reason or "passed", "seconds": time.perf_counter() - begin}


def main() -> None:
    """Answer requests until there are no more."""
    replies, settings = int(sys.argv[1]), json.loads(sys.argv[2])
    # A signal to the whole job must not end a sandbox and so become a verdict; children inherit what is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in NOT_FOR_CHILDREN])
    limits = Limits(**settings["limits"])
    for line in sys.stdin.buffer:
        request = json.loads(line)
        reply = verdict(request["problem"], request["completion"], limits, settings["unsafe"])
        rest = json.dumps(reply).encode() + b"\n"
        while rest:
            rest = rest[os.write(replies, rest) :]


if __name__ == "__main__":
    main()
