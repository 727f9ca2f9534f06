"""From rows to the sides of a study: drop, tokenize, mix, split, count.

Rows are dropped before they are mixed, so that a mixture is exact in rows that are really there. All rows are held in
memory and tokenized, also those that `data.rows` leaves out: `max_length: auto` looks at them. Touches no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshtune.config import DataConfig, RowsFile
from meshtune.data import mixture, split
from meshtune.data.mixture import Indices
from meshtune.data.prompts import Encoded, Prompts, encode, mean_question
from meshtune.data.rows import Row, capped
from meshtune.data.sources import Loaded
from meshtune.data.store import SIDES, SideArrays, join
from meshtune.data.summary import SideSummary, SourceSummary, Summary
from meshtune.errors import Fault, InputError

LONGEST = 2048  # tokens a row under `max_length: auto`
COVERED = 0.99  # share of the rows that `max_length: auto` keeps

EMPTY = "empty response"
TOO_LONG = "over max_length"


@dataclass(frozen=True, eq=False)
class _Pool:
    """All rows of all sources, one after the other; everything here is of one length.

    Attributes:
        source: number of each row's source. group: equal for equal texts. dropped: the reason, or "" for kept rows;
            filled in place, step by step.
    """

    rows: Sequence[Row]
    encoded: Sequence[Encoded]
    source: Indices
    group: Indices
    dropped: NDArray[np.object_]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows are not dropped."""
        return np.asarray(self.dropped == "", dtype=np.bool_)

    def of(self, source: int) -> list[int]:
        """The kept rows of a source."""
        found: list[int] = np.flatnonzero(self.kept & (self.source == source)).tolist()
        return found

    def reasons(self, source: int) -> dict[str, int]:
        """How many rows of a source were dropped, by reason."""
        return dict(Counter(reason for reason in self.dropped[self.source == source] if reason))


def assemble(
    data: DataConfig,
    sources: Sequence[Loaded],
    sides: Sequence[str],
    prompts: Prompts,
    window: int | None,
    seed: int,
    report: Callable[[str], None],
) -> tuple[dict[str, SideArrays], Summary]:
    """The arrays of train, validation and test, and what they are.

    Args:
        sides: for each source, `mix`, or the side whose rows it holds (test before validation).
        window: the longest sequence of the model, or None where it is not known.

    Raises InputError for what cannot be had, and under `strict` for rows that would be dropped.
    """
    pool = _pool(sources, prompts, report)
    lengths = np.array([len(row.tokens) for row in pool.encoded], dtype=np.int64)
    longest = _max_length(data, window, lengths[pool.kept])
    pool.dropped[pool.kept & (lengths > longest)] = TOO_LONG
    if data.strict:
        _refuse_drops(sources, pool, longest)
    _drop_twins(pool, sides)
    _refuse_empty(sources, pool, longest)
    indices = _sides(data, pool, sides, seed)
    arrays = {
        side: join([pool.encoded[row].tokens for row in rows], [pool.encoded[row].trained for row in rows])
        for side, rows in indices.items()
    }
    counts = {side: _side_summary(indices[side], pool, arrays[side], len(sources)) for side in SIDES}
    summary = Summary(
        sources=tuple(_source_summaries(sources, sides, pool, prompts)),
        train=counts["train"],
        validation=counts["validation"],
        test=counts["test"],
        mixture=data.mixture,
        prompt=prompts.style,
        max_length=longest,
    )
    return arrays, summary


def _pool(sources: Sequence[Loaded], prompts: Prompts, report: Callable[[str], None]) -> _Pool:
    """All rows, tokenized; those without a response are dropped already."""
    rows = [row for source in sources for row in source.rows]
    encoded = list(encode(rows, prompts, report))
    group = split.group(row.text for row in encoded)
    source = np.repeat(np.arange(len(sources)), [len(source.rows) for source in sources])
    dropped = np.array(["" if row.response.strip() else EMPTY for row in rows], dtype=object)
    return _Pool(rows, encoded, source, group, dropped)


def _max_length(data: DataConfig, window: int | None, lengths: Indices) -> int:
    """The longest row that is kept. Under `strict`, `auto` covers all rows, since none may be dropped."""
    if data.max_length != "auto":
        if window is not None and data.max_length > window:
            what = f"{data.max_length} tokens are more than the model's window of {window}: write at most {window}"
            raise InputError(Fault(what, key="data.max_length"))
        return data.max_length
    if not len(lengths):
        return LONGEST
    covering = int(np.quantile(lengths, 1.0 if data.strict else COVERED, method="inverted_cdf"))
    return min(covering, LONGEST, window or LONGEST)


def _refuse_drops(sources: Sequence[Loaded], pool: _Pool, longest: int) -> None:
    """Under `strict`: every row that would be dropped is a fault."""
    faults = list[Fault]()
    for number, source in enumerate(sources):
        found = list[Fault]()
        for index in np.flatnonzero((pool.source == number) & ~pool.kept).tolist():
            long = f"{len(pool.encoded[index].tokens):,} tokens, over the max_length of {longest:,}"
            what = long if pool.dropped[index] == TOO_LONG else "the response is empty"
            found.append(source.place.fault(pool.rows[index].line, f"{what} (`data.strict` is on: nothing is dropped)"))
        faults += capped(found, source.place)
    if faults:
        raise InputError(faults)


def _drop_twins(pool: _Pool, sides: Sequence[str]) -> None:
    """Where a side is a file of its own, no equal text may stand elsewhere: the test file keeps it, then validation."""
    for side in ("test", "validation"):
        if side in sides:
            own = pool.kept & (pool.source == sides.index(side))
            pool.dropped[pool.kept & ~own & np.isin(pool.group, pool.group[own])] = f"also in the {side} file"


def _refuse_empty(sources: Sequence[Loaded], pool: _Pool, longest: int) -> None:
    """A source that keeps no row is a fault."""
    faults = list[Fault]()
    for number, source in enumerate(sources):
        if not pool.of(number):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in pool.reasons(number).items())
            what = f"keeps none of its {len(source.rows):,} rows ({reasons}; max_length {longest:,})"
            faults.append(source.place.fault(None, what))
    if faults:
        raise InputError(faults)


def _sides(data: DataConfig, pool: _Pool, sides: Sequence[str], seed: int) -> dict[str, Indices]:
    """The rows of each side: indices into the pool."""
    mixed = sides.count("mix")
    mix = np.flatnonzero(pool.kept & (pool.source < mixed))
    sizes = np.bincount(pool.source[mix], minlength=mixed).tolist()
    shares = [source.share for source in data.sources if source.share is not None] or None
    wanted = [None if isinstance(side, RowsFile) else side for side in (data.validation, data.test)]
    rng = np.random.default_rng([seed, 0])
    if data.mixture == "repeat":
        counts = split.side_sizes(data.rows or len(mix), *wanted, exact=True)
        drawn = mixture.draw(pool.source[mix], pool.group[mix], shares or [1.0], counts, rng)
        parts = [mix[side] for side in drawn]
    else:
        chosen = mix[mixture.choose(data.mixture, sizes, shares, data.rows, rng)]
        _, validation, test = split.side_sizes(len(chosen), *wanted, exact=False)
        found = split.split(pool.source[chosen], pool.group[chosen], validation, test, rng)
        parts = [chosen[side] for side in found]
    own = {side: np.array(pool.of(number)) for number, side in enumerate(sides) if side != "mix"}
    return {**dict(zip(SIDES, parts, strict=True)), **own}


def _source_summaries(
    sources: Sequence[Loaded], sides: Sequence[str], pool: _Pool, prompts: Prompts
) -> Iterator[SourceSummary]:
    for number, source in enumerate(sources):
        kept = pool.of(number)
        yield SourceSummary(
            name=source.name,
            format=source.format,
            side=sides[number],
            read=len(source.rows),
            dropped=pool.reasons(number),
            kept=len(kept),
            prompt_tokens=mean_question([pool.rows[row] for row in kept], prompts),
            response_tokens=float(np.mean([np.count_nonzero(pool.encoded[row].trained) for row in kept])),
        )


def _side_summary(rows: Indices, pool: _Pool, arrays: SideArrays, sources: int) -> SideSummary:
    return SideSummary(
        rows=len(rows),
        distinct=len(np.unique(pool.group[rows])),
        by_source=tuple(np.bincount(pool.source[rows], minlength=sources).tolist()),
        tokens=len(arrays.tokens),
        label_tokens=int(np.count_nonzero(arrays.trained)),
    )
