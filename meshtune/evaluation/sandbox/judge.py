"""Judges code that a model wrote, in a sandbox: `check` one completion, `check_many` of them.

Each completion runs in a process of its own under bubblewrap, and only answers calls: function name and arguments in,
literals of built-in types out. The test runs outside it, in a checker (a program of ours, one a worker, that is used
again). So a completion passes only by giving the right values. A machine that fails raises SandboxError and is never a
verdict. What it does not do: measure memory or limit processor time over all processes of a completion together, or
judge a test that gives its candidate anything but values of built-in types (SandboxError).
"""

from __future__ import annotations

import dataclasses
import json
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from meshtune.errors import Fault, InputError
from meshtune.evaluation.benchmarks.items import CodeCheck
from meshtune.evaluation.sandbox.bubblewrap import unavailable
from meshtune.evaluation.sandbox.candidate import SandboxError
from meshtune.evaluation.sandbox.limits import START_SECONDS, Limits
from meshtune.system import child_start
from meshtune.system.children import Child

__all__ = ["CodeProblem", "CodeVerdict", "Limits", "SandboxError", "available", "check", "check_many", "code_check"]

PROGRAM = "meshtune.evaluation.sandbox.checker"


@dataclass(frozen=True)
class CodeProblem:
    """One problem of HumanEval, with the fields of its file. All of it is trusted code.

    Attributes:
        prompt: the function's head, with what it may use. test: defines `check(candidate)`, which raises where the
            candidate is wrong. canonical_solution: a right completion of the prompt.
    """

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str


@dataclass(frozen=True)
class CodeVerdict:
    """Whether a completion passed; why not, in a line; and wall seconds, the sandbox's start included."""

    passed: bool
    reason: str
    seconds: float


def available() -> str | None:
    """Why completions cannot be sandboxed on this machine, with what to do about it; None where they can."""
    return unavailable()


def check(problem: CodeProblem, completion: str, *, limits: Limits | None = None, unsafe: bool = False) -> CodeVerdict:
    """Judge `prompt + completion`. See `check_many`."""
    (verdict,) = check_many([(problem, completion)], workers=1, limits=limits, unsafe=unsafe)
    return verdict


def check_many(
    pairs: Iterable[tuple[CodeProblem, str]], workers: int = 2, *, limits: Limits | None = None, unsafe: bool = False
) -> Iterator[CodeVerdict]:
    """The verdict of each (problem, completion), in their order, `workers` at once.

    `unsafe` runs them without bubblewrap: they can read, write and send what the user can. Raises SandboxError where
    one cannot be judged, InputError for no workers; closing the iterator ends all that runs.
    """
    if workers < 1:
        raise InputError(Fault(f"is {workers}; it must be 1 or more", key="workers"))
    checkers: list[_Checker] = []
    idle: queue.SimpleQueue[_Checker] = queue.SimpleQueue()

    def judge(problem: CodeProblem, completion: str) -> CodeVerdict:
        checker = idle.get()
        try:
            return checker.judge(problem, completion)
        finally:
            idle.put(checker)

    threads = ThreadPoolExecutor(workers)
    pending: deque[Future[CodeVerdict]] = deque()
    try:
        for _ in range(workers):
            checkers.append(_Checker(limits or Limits(), unsafe))
            idle.put(checkers[-1])
        for problem, completion in pairs:
            pending.append(threads.submit(judge, problem, completion))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for checker in checkers:
            checker.end()
        threads.shutdown()
        for checker in checkers:
            checker.close()


def code_check(workers: int, unsafe: bool = False) -> CodeCheck:
    """What judges the answers of a benchmark that runs code; see `check_many`."""

    def check(pairs: Sequence[tuple[Mapping[str, str], str]]) -> Iterator[tuple[bool, str]]:
        for verdict in check_many([(CodeProblem(**problem), code) for problem, code in pairs], workers, unsafe=unsafe):
            yield verdict.passed, verdict.reason

    return check


class _Checker:
    """A checker's process."""

    def __init__(self, limits: Limits, unsafe: bool):
        # A start and an end; and twice, since one that was killed is judged again.
        self._patience = 2 * (2 * START_SECONDS + limits.wall_seconds) + 30
        settings = json.dumps({"limits": dataclasses.asdict(limits), "unsafe": unsafe})
        try:
            self._child = Child(child_start.command(PROGRAM, settings, isolated=True))
        except OSError as error:
            raise SandboxError(f"no checker could be started: {error}") from error
        self.end, self.close = self._child.kill, self._child.close  # the first ends a `judge` that waits for it too

    def judge(self, problem: CodeProblem, completion: str) -> CodeVerdict:
        task = problem.task_id
        try:
            self._child.send({"problem": dataclasses.asdict(problem), "completion": completion})
            reply = json.loads(self._child.receive(self._patience))
        except (BrokenPipeError, ValueError) as error:
            code = self._child.kill()  # it may have closed its replies only
            if self._child.hung:
                raise SandboxError(f"{task}: its test did not end in {self._patience:g} s") from error
            said = "\n".join(self._child.words())[-2000:]
            raise SandboxError(f"{task}: the checker ended (exit code {code}): {said}") from error
        if "error" in reply:
            raise SandboxError(reply["error"])
        return CodeVerdict(**reply)
