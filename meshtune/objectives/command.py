"""Any program as the black box.

The hyperparameters are filled into the program's arguments (`{learning_rate}`; also `{trial}`, `{seed}`, `{folder}`),
no shell reads them, and the last line of its standard output that is a JSON object holds the result, such as
`{"loss": 1.23}`, or how it ended: `{"ending": "out_of_memory"}`. Its output goes to `<folder>/logs/`.
The program and all that it started are killed at its end, at the timeout, on cancel, and when the worker dies; an
attempt begins only once nothing of an earlier one runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from meshtune.objectives import checkpoints, guard
from meshtune.plain_text import escaped
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Progress, Request, Verdict

REPORTABLE = (Ending.DIVERGED, Ending.OUT_OF_MEMORY, Ending.TIMED_OUT, Ending.INFEASIBLE)
POLL_SECONDS = 1.0
LARGEST = 1e100  # of numbers that a program gives: samplers square them
MOST_TOKENS = 1e15
SHOWN = 300  # characters of a program's result, or of a line of it, in a message
TAIL = 100_000  # bytes of a log in which the reason of an end is looked for
READ = 2**20  # bytes of a log that are read at once
INDENT = 1000  # white space before a result, at most


@dataclass(frozen=True)
class CommandSpec:
    """What to run: the arguments with `{name}` placeholders, the result's key, the study's folder, the directory.

    `also`: further keys whose numbers guide the search, which the result must have.
    """

    command: tuple[str, ...]
    result: str
    folder: str
    directory: str
    also: tuple[str, ...] = ()


class Program:
    """The program of one trial, which runs from `with` on, and is dead behind it with all that it started.

    Attributes:
        out, err: what it printed, in `<folder>/logs/`.
        living: processes of an earlier attempt that cannot be killed. It must not begin: they would write the same
            files.
    """

    def __init__(
        self,
        folder: Path,
        request: Request,
        arguments: Sequence[str],
        directory: str,
        environment: Mapping[str, str] | None = None,
    ):
        logs, name = folder / "logs", name_of(request)
        logs.mkdir(parents=True, exist_ok=True)
        self.out, self.err = logs / f"{name}.out", logs / f"{name}.err"
        self._mark = f"{folder.absolute()}/{name}"
        self._request, self._arguments, self._directory = request, arguments, directory
        self._environment = {**os.environ, **(environment or {}), guard.MARK: self._mark}
        self.living = guard.end_marked(self._mark)
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun

    def cannot_begin(self) -> Outcome:
        """The outcome where something of an earlier attempt lives."""
        message = f"processes of an earlier attempt cannot be killed: {', '.join(map(str, self.living))}"
        return Outcome(self._request.trial, self._request.attempt, Ending.CRASHED, message=message)

    def __enter__(self) -> Program:
        self._read, write = os.pipe()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", guard.__file__, str(write), "--", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=self._directory,
                pass_fds=(write,),
                env=self._environment,
            )
        os.close(write)
        return self

    def wait(self, seconds: float = POLL_SECONDS) -> str | None:
        """How it ended, as the guard says it, or `timeout`; None: it runs after so many seconds."""
        timeout = self._request.timeout
        left = math.inf if timeout is None else timeout - self.seconds
        if left <= 0:
            return "timeout"
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            return os.read(self._read, 1000).decode() if selector.select(min(seconds, left)) else None

    def end(self) -> None:
        """Ask it to end by itself."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._process.stdin.write(b"t")
                self._process.stdin.flush()

    def __exit__(self, *_: object) -> None:
        """The guard kills the program when its input ends."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        os.close(self._read)
        guard.end_marked(self._mark)  # where the guard was killed itself


def name_of(request: Request) -> str:
    """What the logs of a request are called."""
    return f"trial-{request.trial}" if request.trial >= 0 else checkpoints.beside(request.trial)


class CommandObjective:
    """Runs the program once a request, one after the other."""

    def __init__(self, spec: CommandSpec):
        self.spec = spec
        self._suspended = False
        self._ending: set[tuple[int, int]] = set()  # trials and attempts that a person has had stopped

    def suspend(self) -> None:
        """As the objective seam says; a program cannot be made to save anything: it is killed."""
        self._suspended = True

    def decide(self, decision: Decision) -> None:
        """A program knows no rungs: it is killed where a person has had its trial stopped."""
        for trial, tokens, verdict in decision.verdicts:
            if tokens == AT_ONCE and verdict is Verdict.STOPS:
                self._ending.add((trial, decision.attempt))

    def join(self, pack: int, request: Request) -> bool:
        """Programs run one after the other."""
        return False

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Progress | Outcome]:
        """As the objective seam says."""
        for request in requests:
            if not self._suspended:
                yield from self._evaluate(request)

    def _evaluate(self, request: Request) -> Iterator[Progress | Outcome]:
        program = Program(Path(self.spec.folder), request, fill(self.spec, request), self.spec.directory)
        if program.living:
            yield program.cannot_begin()
            return
        ending: str | None = None
        with program:
            while ending is None and not self._suspended and not self._stops(request):
                if (ending := program.wait()) is None:
                    yield Progress(request.trial, request.attempt)
        if ending is None and self._stops(request):
            yield Outcome(request.trial, request.attempt, Ending.STOPPED_EARLY, seconds=program.seconds)
        if ending is None:
            return
        yield self._outcome(request, ending, program.seconds, program.out, program.err)

    def _stops(self, request: Request) -> bool:
        return (request.trial, request.attempt) in self._ending

    def _outcome(self, request: Request, ending: str, seconds: float, out: Path, err: Path) -> Outcome:
        def ended(how: Ending, message: str = "", **fields: Any) -> Outcome:
            return Outcome(request.trial, request.attempt, how, seconds=seconds, message=message, **fields)

        if ending == "timeout":
            return ended(Ending.TIMED_OUT, f"not finished after {request.timeout:g} s")
        word, _, rest = ending.partition(" ")
        if word != "exit":
            return ended(Ending.CRASHED, f"the program cannot be started: {rest}" if rest else "it was killed")
        if rest != "0":
            return ended(Ending.CRASHED, f"exit code {rest}: {last_words(out, err)}")
        found = last_object(out)
        if found is None:
            return ended(Ending.CRASHED, f'printed no JSON object such as {{"{self.spec.result}": 1.23}} (see {out})')
        line, result = found
        where = f"line {line} of {out}: {str(result)[:SHOWN]}"
        if "ending" in result:
            if result["ending"] in REPORTABLE:
                return ended(Ending(result["ending"]), str(result.get("message", "")))
            if result["ending"] != Ending.COMPLETE:
                allowed = ", ".join(REPORTABLE)
                return ended(Ending.CRASHED, f"printed ending {result['ending']!r}; allowed are {allowed}, complete")
        key = self.spec.result
        loss = result.get(key)
        if not _is_number(loss):
            return ended(Ending.CRASHED, f"its JSON line has no number `{key}` ({where})")
        if not loss <= LARGEST:  # not a number is not either
            return ended(Ending.DIVERGED, f"`{key}` was {loss}")
        if loss < -LARGEST:
            return ended(Ending.CRASHED, f"`{key}` was {loss}; numbers from {-LARGEST:g} on are allowed ({where})")
        extra = {escaped(k): float(v) for k, v in result.items() if _is_number(v) and abs(v) <= LARGEST}
        if missing := [key for key in self.spec.also if key not in extra]:
            what = f"its JSON line has no number `{missing[0]}` up to {LARGEST:g}, which guides the search"
            return ended(Ending.CRASHED, f"{what} ({where})")
        losses, tokens, left = _beside(result)
        message = f"left out: {' and '.join(left)} ({where})" if left else ""
        losses = losses or (float(loss),)
        return ended(Ending.COMPLETE, message, loss=float(loss), losses=losses, tokens=tokens, extra=extra)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _beside(result: Mapping[str, Any]) -> tuple[tuple[float, ...], int, list[str]]:
    """The curve and the tokens of a result, and what of them is no such thing: it makes no good trial a bad one."""
    losses, tokens, left = result.get("losses", []), result.get("tokens", 0), []
    if not isinstance(losses, list):
        left.append("`losses`, which is a list of numbers")
        losses = []
    if not (_is_number(tokens) and 0 <= tokens <= MOST_TOKENS):
        left.append("`tokens`, which is a number from 0 on")
        tokens = 0
    return tuple(float(x) for x in losses if _is_number(x) and abs(x) <= LARGEST), int(tokens), left


def fill(spec: CommandSpec, request: Request) -> list[str]:
    """The arguments with the placeholders filled in; reals with all their digits."""
    values: Mapping[str, Any] = {
        **request.hyperparameters,
        "trial": request.trial,
        "seed": request.seed,
        "folder": spec.folder,
    }
    filled = []
    for argument in spec.command:
        for name, value in values.items():
            argument = argument.replace("{" + name + "}", str(value))
        filled.append(argument)
    return filled


def last_object(path: Path) -> tuple[int, dict[str, Any]] | None:
    """The last line of a file that is a JSON object: its number, from 1, and the object. It reads from the end on."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = len(text)
        while end >= 0:
            begin = text.rfind(b"\n", 0, end) + 1
            if text[begin : min(end, begin + INDENT)].lstrip().startswith(b"{"):
                with contextlib.suppress(ValueError, RecursionError):
                    value = json.loads(text[begin:end].decode("utf-8", errors="replace"), parse_int=_whole)
                    if isinstance(value, dict):
                        return _lines(path, begin) + 1, value
            end = begin - 1
    return None


def _lines(path: Path, size: int) -> int:
    """How many lines end in so many first bytes of a file."""
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(min(READ, size - file.tell())), b"")
        return sum(block.count(b"\n") for block in blocks)


def _whole(digits: str) -> int | float:
    """A whole number; with hundreds of digits it is infinite, as `1e400` is."""
    return int(digits) if len(digits) <= 300 else float(digits)


def last_words(out: Path, err: Path, lines: int = 3) -> str:
    """The last lines of what a program printed, for a message, and where more is: its errors, else its output."""
    for path in (err, out):
        if words := [line.strip() for line in tail(path).splitlines() if line.strip()]:
            return f"{' | '.join(line[-SHOWN:] for line in words[-lines:])} (see {path})"
    return f"it said nothing (see {err})"


def tail(path: Path) -> str:
    """The end of a log, which may be long; "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().decode("utf-8", errors="replace")
