"""What a fine-tuning tool's own logs say of a trial: its evaluations, and why it ended.

Three places hold evaluations: `trainer_state.json`, which Transformers' trainer writes with each checkpoint,
`trainer_log.jsonl`, which LLaMA-Factory writes as it goes, and the lines such as `{'eval_loss': '1.234', 'epoch': '1'}`
that are printed, to four digits since Transformers 5. The exact ones come first; what is only printed yet follows them.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshtune.objectives.command import LARGEST, MOST_TOKENS, tail
from meshtune.plain_text import escaped

LOSS = "eval_loss"
PIECE = 4_000_000  # bytes of a printed log that are read at once
ENTRY = 10_000  # bytes of a printed entry at most
_BRACES = re.compile(rb"\{[^{}]{0,%d}\}" % ENTRY)
_LOSSES = re.compile(rb"['\"](?:eval_)?loss['\"]")
_TIMED = re.compile(r"_runtime$|_per_second$")  # the clock's, and no quality of a trial
# Searched line by line: bars that only return the carriage make one line of a whole log.
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory\b|CUBLAS_STATUS_ALLOC_FAILED|[Cc]an(?:no|')t allocate memory"
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its loss, epochs done by then, and what else it measured. `tokens`: so far, 0 where not said."""

    loss: float
    epoch: float
    tokens: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """What the logs say so far.

    Attributes:
        evaluations: after the first step, in their order. epoch: of the last entry. training_loss: of the last that has
            one. broken: whether a training loss was not finite.
    """

    evaluations: tuple[Evaluation, ...] = ()
    epoch: float = 0.0
    training_loss: float | None = None
    broken: bool = False

    @property
    def diverged(self) -> str | None:
        """What was not finite, in words."""
        wrong = [one.loss for one in self.evaluations if not math.isfinite(one.loss)]
        return f"{LOSS} was {wrong[0]}" if wrong else "a training loss was not finite" if self.broken else None


class Reader:
    """Reads what stands in a trial's output folder, and what it printed, as these grow.

    Each byte that is printed is read once, and at most PIECE of a file at a time: a tool may print faster than it can
    be read. Lines that are half written wait for their end.
    """

    def __init__(self, output: Path, *printed: Path):
        self._output = output
        self._printed = [_Printed(path) for path in printed]
        self._exact, self._stamps = _Entries(), dict[Path, tuple[int, int]]()

    def read(self) -> bool:
        """Read on; whether there is more by now."""
        stamps = _stamps(self._output)
        if stamps != self._stamps:
            self._stamps, self._exact = stamps, _written(stamps)
        return any([one.read() for one in self._printed])

    @property
    def log(self) -> Log:
        """What the logs say so far."""
        exact, lines = self._exact, [one.entries for one in self._printed]
        found = list(exact.evaluations)
        found += [each for one in lines for each in one.evaluations][len(found) :]
        trained = lines if any(one.count for one in lines) else [exact]
        losses = [one.training_loss for one in trained if one.training_loss is not None]
        epoch = max(one.epoch for one in (exact, *lines))
        return Log(tuple(found), epoch, losses[-1] if losses else None, any(one.broken for one in trained))


def out_of_memory(*printed: Path) -> str | None:
    """The line that says that memory ran out, the last one; None: none does."""
    lines = [line.strip() for path in printed for line in tail(path).splitlines() if _OUT_OF_MEMORY.search(line)]
    return lines[-1][-300:] if lines else None


class _Entries:
    """What entries say together, one after the other.

    Attributes:
        evaluations: those of a trained adapter; Axolotl also measures before the first step. count: of entries.
        training_loss: the last that is finite. broken: whether one was not.
    """

    def __init__(self) -> None:
        self.evaluations = list[Evaluation]()
        self.count, self.epoch, self.tokens = 0, 0.0, 0
        self.training_loss: float | None = None
        self.broken = False

    def add(self, entry: Mapping[str, Any]) -> None:
        self.count += 1
        tokens = _number(entry.get("num_tokens", entry.get("num_input_tokens_seen", entry.get("total_tokens"))))
        if tokens is not None and self.tokens < tokens <= MOST_TOKENS:
            self.tokens = int(tokens)
        training, loss, epoch = _number(entry.get("loss")), _number(entry.get(LOSS)), _number(entry.get("epoch"))
        if training is not None and math.isfinite(training):
            self.training_loss = training
        self.broken |= training is not None and not math.isfinite(training)
        if epoch is not None and not math.isfinite(epoch):
            epoch = self.epoch
        self.epoch = max(self.epoch, epoch or 0.0)
        if loss is not None and epoch:
            self.evaluations.append(Evaluation(loss, epoch, self.tokens, _further(entry)))


def _further(entry: Mapping[str, Any]) -> dict[str, float]:
    """The other numbers of an evaluation."""
    named = {name: value for name, value in entry.items() if name.startswith("eval_") and not _TIMED.search(name)}
    numbers = {escaped(name): _number(value) for name, value in named.items() if name != LOSS}
    return {name: value for name, value in numbers.items() if value is not None and abs(value) <= LARGEST}


class _Printed:
    """The entries that were printed into one file so far."""

    def __init__(self, path: Path):
        self.entries = _Entries()
        self._path, self._at, self._left = path, 0, b""

    def read(self) -> bool:
        """Read a piece; whether there is more by now."""
        if not self._path.is_file():
            return False
        with self._path.open("rb") as file:
            file.seek(self._at)
            piece = file.read(PIECE)
        self._at += len(piece)
        text, end = self._left + piece, 0
        for match in _BRACES.finditer(text):
            end = match.end()
            if _LOSSES.search(match[0]) and (entry := _entry(match[0])) is not None:
                self.entries.add(entry)
        begun = text.rfind(b"{", end)
        self._left = text[begun:] if begun >= 0 and len(text) - begun <= ENTRY else b""
        return len(piece) == PIECE


def _entry(printed: bytes) -> Mapping[str, Any] | None:
    """A Python mapping, in which `nan` without quotes is no value."""
    text = printed.decode("utf-8", errors="replace")
    try:
        value = ast.literal_eval(re.sub(r":\s*(-?(?:nan|inf))\b", r": '\1'", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return _named(value)


def _stamps(output: Path) -> dict[Path, tuple[int, int]]:
    """The files that may hold entries, with what changes where they do; checkpoints come and go meanwhile."""
    names, found = list[str](), dict[Path, tuple[int, int]]()
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(output) if name.startswith("checkpoint-"))
    states = [output / name / "trainer_state.json" for name in ("", *names)]
    for path in (*states, output / "trainer_log.jsonl"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            found[path] = (facts.st_size, facts.st_mtime_ns)
    return found


def _written(paths: Iterable[Path]) -> _Entries:
    """The entries of the file that has most of them."""
    found = list[list[Mapping[str, Any]]]([[]])
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            values = map(_json, text.splitlines()) if path.suffix == ".jsonl" else json.loads(text)["log_history"]
            found.append([entry for value in values if (entry := _named(value)) is not None])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # half written, or just replaced
            continue
    made = _Entries()
    for entry in max(found, key=len):
        made.add(entry)
    return made


def _named(value: Any) -> Mapping[str, Any] | None:
    """A mapping whose keys are names; None of anything else."""
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    """A number, as text too; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
