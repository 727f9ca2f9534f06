"""What prepared data hold, for people and for the record: rows, tokens, what was dropped and why.

Rows, mean prompt and mean response length a source are the columns of the paper's Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshtune.trial import DataRef


@dataclass(frozen=True)
class SourceSummary:
    """Of one source: rows read, dropped by reason, used on any side; mean tokens of the used prompts and responses."""

    name: str
    read: int
    dropped: dict[str, int]
    used: int
    prompt_mean: float
    response_mean: float


@dataclass(frozen=True)
class SideSummary:
    """Of one side: rows, tokens and label tokens, repeats counted."""

    rows: int
    tokens: int
    label_tokens: int


@dataclass(frozen=True)
class Summary:
    """What the data hold."""

    sources: tuple[SourceSummary, ...]
    train: SideSummary
    validation: SideSummary
    test: SideSummary
    longest: int
    max_length: int
    prompt: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Summary:
        """From plain values, as `dataclasses.asdict` gave them."""
        return cls(
            sources=tuple(SourceSummary(**source) for source in fields["sources"]),
            longest=fields["longest"],
            max_length=fields["max_length"],
            prompt=fields["prompt"],
            **{side: SideSummary(**fields[side]) for side in ("train", "validation", "test")},
        )


@dataclass(frozen=True)
class Prepared:
    """Prepared data: where they are, and what they hold."""

    ref: DataRef
    summary: Summary


def summarise(
    names: Sequence[str],
    read: Sequence[int],
    dropped: Sequence[dict[str, int]],
    arrays: dict[str, np.ndarray[Any, Any]],
    source_of: Sequence[int],
    max_length: int,
    prompt: str,
) -> Summary:
    """The summary of what `meshtune.data.build` made; `source_of` is the source of each kept row."""
    lengths = np.diff(arrays["offsets"])
    labels = np.add.reduceat(arrays["trained"], arrays["offsets"][:-1], dtype=np.int64)
    used = np.array([source_of[row] for row in arrays["kept"]])

    def side(name: str) -> SideSummary:
        order = arrays[name]
        return SideSummary(len(order), int(lengths[order].sum()), int(labels[order].sum()))

    def source(index: int, name: str) -> SourceSummary:
        mine = used == index
        means = (float(tokens[mine].mean()) if mine.any() else 0.0 for tokens in (lengths - labels, labels))
        return SourceSummary(name, read[index], dict(dropped[index]), int(mine.sum()), *means)

    return Summary(
        sources=tuple(source(index, name) for index, name in enumerate(names)),
        train=side("train"),
        validation=side("validation"),
        test=side("test"),
        longest=int(lengths.max()),
        max_length=max_length,
        prompt=prompt,
    )


def describe(summary: Summary) -> str:
    """The summary as a few lines for people."""
    lines = []
    for source in summary.sources:
        dropped = "".join(f", {count} dropped ({reason})" for reason, count in source.dropped.items())
        lines.append(
            f"  {source.name}: {source.read:,} rows read{dropped}; {source.used:,} used, on average"
            f" {source.prompt_mean:.1f} prompt and {source.response_mean:.1f} response tokens"
        )
    for name in ("train", "validation", "test"):
        side: SideSummary = getattr(summary, name)
        lines.append(f"  {name:<11}{side.rows:>7,} rows {side.tokens:>10,} tokens {side.label_tokens:>10,} trained")
    lines.append(
        f"  longest row {summary.longest} tokens (limit {summary.max_length}); prompt template: {summary.prompt}"
    )
    return "\n".join(lines)
