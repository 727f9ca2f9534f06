"""What the prepared data are, in numbers: per source and per side, as plain values and as a short table.

The statistics of Table 2 of the paper (rows, mean length of prompts and of responses) are given per source, in tokens
of the study's model: the prompt without a template around it, the response with what is learned at its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshtune.system.text import counted

FEW = 30  # rows below which an interval over rows means little


@dataclass(frozen=True)
class SourceSummary:
    """One source.

    Attributes:
        name, format: what it is called, and the format of its rows. side: `mix`, or the side that is this file.
        read: rows that it holds. dropped: rows left out, by reason. kept: the rest.
        prompt_tokens: mean length of the kept rows' questions. response_tokens: mean number of tokens that are learned.
        unrolled: rows that its conversations became, where the chat template rewrites earlier turns; 0: none was
            unrolled. `dropped` and `kept` count these.
    """

    name: str
    format: str
    side: str
    read: int
    dropped: Mapping[str, int]
    kept: int
    prompt_tokens: float
    response_tokens: float
    unrolled: int = 0

    @property
    def rows(self) -> int:
        """Kept or dropped rows."""
        return self.unrolled or self.read


@dataclass(frozen=True)
class SideSummary:
    """One side: rows (`distinct`: repeats counted once), rows of each source, tokens, and tokens that are learned.

    `near`, `templated`: rows that are nearly a training row, or of its template (see `near`); 0 for training.
    """

    rows: int
    distinct: int
    by_source: tuple[int, ...]
    tokens: int
    label_tokens: int
    near: int = 0
    templated: int = 0


@dataclass(frozen=True)
class Summary:
    """All of it. `prompt` is the style that was used, `max_length` the longest row allowed, in tokens.

    `train_on`: what is learned. `split_by`: the column whose groups stay on one side, or None.
    """

    sources: tuple[SourceSummary, ...]
    train: SideSummary
    validation: SideSummary
    test: SideSummary
    mixture: str
    prompt: str
    max_length: int
    train_on: str = "all"
    split_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Summary:
        """What `to_dict` gave, also after a way through JSON."""
        sides = {
            side: SideSummary(**{**values[side], "by_source": tuple(values[side]["by_source"])})
            for side in ("train", "validation", "test")
        }
        return cls(**{**values, **sides, "sources": tuple(SourceSummary(**source) for source in values["sources"])})


def describe(summary: Summary) -> str:
    """A short table for people."""
    head = ("source", "read", "dropped", "kept", "prompt", "response", "train", "valid.", "test")
    lines: list[tuple[str, ...]] = [head]
    sides = (summary.train, summary.validation, summary.test)
    for number, source in enumerate(summary.sources):
        lengths = (f"{source.prompt_tokens:.1f}", f"{source.response_tokens:.1f}")
        counts = (source.read, source.rows - source.kept, source.kept)
        rows = [f"{side.by_source[number]:,}" for side in sides]
        lines.append((source.name, *(f"{count:,}" for count in counts), *lengths, *rows))
    lines.append(("all rows", "", "", "", "", "", *(f"{side.rows:,}" for side in sides)))
    lines.append(("all tokens", "", "", "", "", "", *(f"{side.tokens:,}" for side in sides)))
    lines.append(("learned tokens", "", "", "", "", "", *(f"{side.label_tokens:,}" for side in sides)))
    if summary.mixture == "repeat":
        lines.append(("different rows", "", "", "", "", "", *(f"{side.distinct:,}" for side in sides)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    ]
    how = f"mixture {summary.mixture}, prompt {summary.prompt}, at most {summary.max_length:,} tokens a row"
    return "\n".join([*table, f"(prompt, response: mean tokens of the kept rows; {how})", *_notes(summary)])


def _notes(summary: Summary) -> list[str]:
    """What a person should know beside the numbers, a line each."""
    notes = []
    for source in summary.sources:
        if source.unrolled:
            notes.append(
                f"{source.name}: {source.read:,} conversations are {source.unrolled:,} rows: the chat template "
                "rewrites earlier turns, so that each answer is a row of its own"
            )
        for reason, count in source.dropped.items():
            notes.append(f"{source.name}: {count:,} dropped ({100 * count / source.rows:.2g} %): {reason}")
    if any(source.dropped for source in summary.sources):
        notes.append("no row is cut: it is taken whole or dropped")
    if summary.train_on != "all":
        what = "the last answer of a row alone" if summary.train_on == "last" else "every token, prompts included"
        notes.append(f"learned: {what} (train_on: {summary.train_on})")
    if summary.split_by is not None:
        notes.append(f"rows of one `{summary.split_by}` are on one side")
    return [*notes, *warnings(summary.to_dict())]


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """What makes losses of held-out rows worth less, in sentences, from the plain values of a summary."""
    found = []
    for name in ("validation", "test"):
        side = summary[name]
        rows = counted(side["rows"], f"{name} row")
        use = "the search chooses by luck" if name == "validation" else "an interval over them says little"
        if 0 < side["rows"] < FEW:
            found.append(f"only {rows}: {use}; give at least {FEW} (`data.{name}`)")
        if side["near"]:
            found.append(f"{side['near']:,} of {rows} are nearly a training row (4/5 of their phrases)")
        if 10 * side.get("templated", 0) >= side["rows"] > 0:
            what = "are a training row with other names or numbers"
            found.append(f"{side['templated']:,} of {rows} {what}: their loss says little about texts of another form")
    return found
