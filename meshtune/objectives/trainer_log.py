"""What a fine-tuning tool's own logs say of a trial: its evaluations, and why it ended.

Three places hold evaluations: `trainer_state.json`, which Transformers' trainer writes with each checkpoint,
`trainer_log.jsonl`, which LLaMA-Factory writes as it goes, and the lines such as `{'eval_loss': '1.234', 'epoch': '1'}`
that are printed, to four digits since Transformers 5. The exact ones come first; what is only printed yet follows them.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOSS = "eval_loss"
TAIL = 100_000  # bytes of a log in which the reason of an end is looked for
_PRINTED = re.compile(r"\{[^{}]*['\"](?:eval_)?loss['\"][^{}]*\}")
_TIMED = re.compile(r"_runtime$|_per_second$")  # the clock's, and no quality of a trial
_OUT_OF_MEMORY = re.compile(
    r"[^\n]*(?:OutOfMemoryError|out of memory\b|CUBLAS_STATUS_ALLOC_FAILED|[Cc]an(?:no|')t allocate memory)[^\n]*"
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


def read(output: Path, *printed: Path) -> Log:
    """What stands in a trial's output folder and in what it printed; lines that are half written are left out."""
    exact, lines = _written(output), [entry for path in printed for entry in _entries_in(path)]
    found = _evaluations(exact)
    found += _evaluations(lines)[len(found) :]
    losses = [value for entry in lines or exact if (value := _number(entry.get("loss"))) is not None]
    epochs = [epoch for entry in (*exact, *lines) if (epoch := _number(entry.get("epoch"))) is not None]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return Log(tuple(found), max(epochs, default=0.0), finite[-1] if finite else None, len(finite) < len(losses))


def out_of_memory(*printed: Path) -> str | None:
    """The line that says that memory ran out, the last one; None: none does."""
    found = [match[0].strip() for path in printed for match in _OUT_OF_MEMORY.finditer(_tail(path))]
    return found[-1][-300:] if found else None


def _written(output: Path) -> list[Mapping[str, Any]]:
    """The entries of the file that has most of them."""
    found: list[list[Mapping[str, Any]]] = [[]]
    for path in (*output.glob("trainer_state.json"), *output.glob("checkpoint-*/trainer_state.json")):
        try:
            history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
            found.append([entry for entry in history if isinstance(entry, dict)])
        except (OSError, ValueError, KeyError, TypeError):  # half written, or just replaced
            continue
    log = output / "trainer_log.jsonl"
    if log.is_file():
        entries = [_json(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        found.append([entry for entry in entries if entry is not None])
    return max(found, key=len)


def _entries_in(path: Path) -> list[Mapping[str, Any]]:
    """The entries that were printed, one after the other."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = list[Mapping[str, Any]]()
    for match in _PRINTED.finditer(text):
        try:  # a Python mapping, in which `nan` without quotes is no value
            value = ast.literal_eval(re.sub(r":\s*(-?(?:nan|inf))\b", r": '\1'", match[0]))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _evaluations(entries: Iterable[Mapping[str, Any]]) -> list[Evaluation]:
    """Those of a trained adapter; Axolotl also measures before the first step."""
    found, tokens = list[Evaluation](), 0
    for entry in entries:
        count = _number(entry.get("num_tokens", entry.get("num_input_tokens_seen", entry.get("total_tokens"))))
        tokens = max(tokens, int(count) if count is not None and math.isfinite(count) else 0)
        loss, epoch = _number(entry.get(LOSS)), _number(entry.get("epoch"))
        if loss is None or not epoch:
            continue
        named = {name: value for name, value in entry.items() if name.startswith("eval_") and not _TIMED.search(name)}
        numbers = {name: _number(value) for name, value in named.items() if name != LOSS}
        extra = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
        found.append(Evaluation(loss, epoch, tokens, extra))
    return found


def _json(line: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(value: Any) -> float | None:
    """A number, as text too; None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        return file.read().decode("utf-8", errors="replace")
