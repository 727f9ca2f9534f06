"""Rows of several adapters as one pass: sequences end to end, without padding, and where the labels are."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from meshtune.training.loss import Row
from meshtune.training.packed.flat_adapter import FlatAdapter, Span

PADDED = 2  # times the limit of tokens, where layers want sequences of one length


@dataclass(frozen=True)
class Portion:
    """What one adapter brings to a pass: rows, and what the loss of a label counts in the sum (1 / labels of a step).

    `draw` is the number of the portion in the adapter's training; None: it is only measured. A piece of a portion knows
    that portion's tokens, `whole`, and those `before` it in there, since masks are drawn for the whole one.
    """

    adapter: FlatAdapter | None
    rows: Sequence[Row]
    share: float = 1.0
    draw: int | None = None
    before: int = 0
    whole: int | None = None

    @functools.cached_property
    def tokens(self) -> int:
        """Of all its rows."""
        return sum(len(tokens) for tokens, _ in self.rows)

    @functools.cached_property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max(len(tokens) for tokens, _ in self.rows)


@dataclass(frozen=True)
class Pass:
    """Portions end to end.

    Attributes:
        ids, positions: (1, tokens); positions begin at 0 in every sequence. lengths: of the sequences. starts: of each,
        and the end of the last, int32.
        spans: the tokens of each portion. before: (labels,) the place before each label. labels, shares: (labels,).
        counts: labels of each sequence. shared: labels of each portion.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]
    starts: torch.Tensor
    spans: tuple[Span, ...]
    before: torch.Tensor
    labels: torch.Tensor
    shares: torch.Tensor
    counts: tuple[int, ...]
    shared: tuple[int, ...]


def lay_out(portions: Sequence[Portion], device: torch.device, multiple: int = 1) -> Pass:
    """The pass of some portions, each of which has a row at least.

    Each portion is filled up to a multiple of tokens by a sequence without labels, of which `counts` knows nothing.
    """
    rows, own = list[Row](), list[bool]()
    spans, firsts = list[Span](), [0]
    begin = 0
    for portion in portions:
        filler = -portion.tokens % multiple
        rows += portion.rows
        own += [True] * len(portion.rows)
        if filler:
            rows.append((np.zeros(filler, dtype=np.int32), np.zeros(filler, dtype=np.bool_)))
            own.append(False)
        firsts.append(len(rows))
        drawn = None if portion.whole is None else portion.whole + -portion.whole % multiple
        stop = begin + portion.tokens + filler
        spans.append(Span(portion.adapter, begin, stop, portion.draw, portion.before, drawn))
        begin = spans[-1].stop
    lengths = np.array([len(tokens) for tokens, _ in rows])
    starts = np.cumsum(lengths) - lengths
    ids = np.concatenate([tokens for tokens, _ in rows]).astype(np.int64)
    learned = np.concatenate([trained for _, trained in rows])
    learned[starts] = False  # a sequence's first token has none before it
    labels = np.flatnonzero(learned)
    counts = np.add.reduceat(learned.astype(np.int64), starts)
    shared = np.add.reduceat(counts, firsts[:-1])
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    shares = np.repeat([portion.share for portion in portions], shared).astype(np.float32)
    ends = np.append(starts, len(ids)).astype(np.int32)
    sent = _sent([ids, positions, ends, labels - 1, ids[labels], shares], device)
    return Pass(
        sent[0][None],
        sent[1][None],
        tuple(lengths.tolist()),
        sent[2],
        tuple(spans),
        sent[3],
        sent[4],
        sent[5],
        tuple(counts[own].tolist()),
        tuple(shared.tolist()),
    )


def _sent(arrays: Sequence[np.ndarray[Any, Any]], device: torch.device) -> list[torch.Tensor]:
    """Arrays as tensors on a device: to a GPU in one copy, for which the host does not wait."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cpu":
        return tensors
    sizes = [(x.nbytes + 7) // 8 for x in tensors]  # in words of eight bytes
    host = torch.empty(sum(sizes), dtype=torch.int64, pin_memory=device.type == "cuda")
    for place, x in zip(torch.split(host, sizes), tensors, strict=True):
        place.view(x.dtype)[: len(x)].copy_(x)
    there = torch.split(host.to(device, non_blocking=True), sizes)
    return [place.view(x.dtype)[: len(x)] for place, x in zip(there, tensors, strict=True)]


def gathered(
    portions: Sequence[Portion], limit: int, alike: float = math.inf, padded: bool = False
) -> list[list[Portion]]:
    """Portions in their order, as many together as have no more tokens than the limit, and no row beyond `alike`.

    Where some layers pad, rows of the longest's length have no more than `PADDED` times the limit.
    """
    found: list[list[Portion]] = []
    rows, tokens, longest = 0, 0, 0
    for portion in portions:
        rows, tokens, longest = rows + len(portion.rows), tokens + portion.tokens, max(longest, portion.longest)
        if found and tokens <= limit and longest <= alike and not (padded and rows * longest > PADDED * limit):
            found[-1].append(portion)
        else:
            found.append([portion])
            rows, tokens, longest = len(portion.rows), portion.tokens, portion.longest
    return found


def pieces(portion: Portion, limit: int, alike: float = math.inf, padded: bool = False) -> list[Portion]:
    """A portion, cut at rows into pieces of at most so many tokens (a single row may have more); masks are the same."""
    if portion.tokens <= limit:
        return [portion]
    lengths = [len(tokens) for tokens, _ in portion.rows]
    return _cut(portion, in_portions(range(len(lengths)), lengths, len(lengths), limit, alike, padded))


def shares(portions: Sequence[Portion], count: int) -> list[list[Portion]]:
    """Portions shared among so many processes, about as many tokens each: cut at rows, in their order."""
    if count == 1:
        return [list(portions)]
    total, begun = sum(portion.tokens for portion in portions), 0
    found: list[list[Portion]] = [[] for _ in range(count)]
    for portion in portions:
        parts: list[list[int]] = [[] for _ in range(count)]
        for row, (tokens, _) in enumerate(portion.rows):
            parts[(2 * begun + len(tokens)) * count // (2 * total)].append(row)  # where its middle lies
            begun += len(tokens)
        used = [rank for rank in range(count) if parts[rank]]
        pieces_of_it = [portion] if len(used) == 1 else _cut(portion, [parts[rank] for rank in used])
        for rank, piece in zip(used, pieces_of_it, strict=True):
            found[rank].append(piece)
    return found


def _cut(portion: Portion, parts: Sequence[Sequence[int]]) -> list[Portion]:
    """A portion, or a piece of one, in pieces: the numbers of the rows of each, in their order."""
    whole = portion.tokens if portion.whole is None else portion.whole
    found, before = [], portion.before
    for part in parts:
        found.append(replace(portion, rows=[portion.rows[row] for row in part], before=before, whole=whole))
        before += found[-1].tokens
    return found


def in_portions(
    rows: Sequence[int], lengths: Sequence[int], most: int, limit: int, alike: float = math.inf, padded: bool = False
) -> list[list[int]]:
    """Numbers of rows in their order, in lists of at most `most` rows and `limit` tokens; padded as in `gathered`.

    Single rows may have more; one of more than `alike` is alone.
    """
    found: list[list[int]] = []
    tokens, longest = 0, 0
    for row, length in zip(rows, lengths, strict=True):
        count = len(found[-1]) + 1 if found else 0
        tokens, longest = tokens + length, max(longest, length)
        room = tokens <= limit and longest <= alike and not (padded and count * longest > PADDED * limit)
        if found and count <= most and room:
            found[-1].append(row)
        else:
            found.append([row])
            tokens, longest = length, length
    return found
