"""From rows to the sides of a study: render and tokenize all, drop, mix, split, count.

Rows are dropped before they are mixed, so that a mixture is exact in rows that are really there. All rows are held in
memory and tokenized, also those that `data.rows` leaves out: `max_length: auto` looks at them. Touches no file.

Guarantees: rows of equal text, of one conversation, and of one value of `split_by` are in one group, and so on one
side. Faults of rows that cannot be shown to the model come with file and line, of all sources at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from meshtune.config.sections import DataConfig, RowsFile
from meshtune.data import split
from meshtune.data.chat import Refused
from meshtune.data.near import near, templated
from meshtune.data.prompts import Prompts, mean_question
from meshtune.data.rows import Conversation, Row, capped, kind
from meshtune.data.sources import Loaded
from meshtune.data.split import Indices
from meshtune.data.store import ORIGINAL_SIDES, SIDES, OriginalRow, SideArrays, join
from meshtune.data.summary import SideSummary, SourceSummary, Summary
from meshtune.data.tokens import Encoded, encode
from meshtune.errors import Fault, InputError, nearest, noting, refuse

EMPTY = "empty response"
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Pool:
    """All rows, one source after the other; a conversation may be several. Arrays are of one length, that of `encoded`.

    Attributes:
        given: the rows as they were read. origin: for each row, its number in `given`. shown: how many turns it shows.
        source: number of each row's source. words: equal for equal texts. column: equal for equal values of `split_by`,
            or None. group: equal for what must stay on one side.
        dropped: the reason, or "" for kept rows; filled in place, step by step.
    """

    given: Sequence[Row | Conversation]
    origin: Indices
    shown: Indices
    encoded: Sequence[Encoded]
    source: Indices
    words: Indices
    column: Indices | None
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

    def row(self, number: int) -> Row | Conversation:
        """What the row was read as."""
        return self.given[int(self.origin[number])]

    def text(self, number: int) -> str:
        """What people wrote in it, without a template."""
        row = self.row(number)
        return row.text() if isinstance(row, Row) else row.text(int(self.shown[number]))

    def question(self, number: int) -> str:
        """What was asked in it, without a template."""
        row = self.row(number)
        return row.question if isinstance(row, Row) else row.question(int(self.shown[number]))


def pool_of(sources: Sequence[Loaded], prompts: Prompts, split_by: str | None, report: Callable[[str], None]) -> Pool:
    """All rows, tokenized; those without a response are dropped already.

    Raises InputError for rows without the column `split_by`, and for those that the chat template refuses.
    """
    faults = list[Fault]()
    with noting(faults):
        values = _of_each(sources, lambda row: _value(row, split_by)) if split_by is not None else None
    with noting(faults):
        rendered = _of_each(sources, prompts.render)
    refuse(faults)
    rows = [shown for row in rendered for shown in row]
    origin = np.repeat(np.arange(len(rendered)), [len(row) for row in rendered])
    words = split.group(row.text for row in rows)
    column = np.array(split.merge([values]))[origin] if values is not None else None
    labels = [words.tolist(), origin.tolist(), *([] if column is None else [column.tolist()])]
    return Pool(
        given=[row for source in sources for row in source.rows],
        origin=origin,
        shown=np.array([row.shown for row in rows], dtype=np.int64),
        encoded=list(encode(rows, prompts.tokenizer, report)),
        source=np.repeat(np.arange(len(sources)), [len(source.rows) for source in sources])[origin],
        words=words,
        column=column,
        group=split.merge(labels),
        dropped=np.array([EMPTY if row.empty else "" for row in rows], dtype=object),
    )


def original(row: Row | Conversation) -> Any:
    """The row as its source has it; of rows that were made here, an Alpaca row."""
    if isinstance(row, Row) and row.item is None:
        return {"instruction": row.prompt, "input": row.context, "output": row.response}
    return row.item


def _of_each(sources: Sequence[Loaded], make: Callable[[Row | Conversation], _Made]) -> list[_Made]:
    """What `make` gives for each row. Raises InputError with all rows for which it raises Refused."""
    made, faults = list[_Made](), list[Fault]()
    for source in sources:
        found = list[Fault]()
        for row in source.rows:
            try:
                made.append(make(row))
            except Refused as refused:
                found.append(source.place.fault(row.line, str(refused)))
        faults += capped(found, source.place)
    refuse(faults)
    return made


def _value(row: Row | Conversation, column: str) -> str | int | float | bool:
    """The row's value of the column `split_by`."""
    item = original(row)
    keys = item if isinstance(item, Mapping) else {}
    value = keys.get(column)
    if isinstance(value, str | int | float):
        return value
    if column in keys:
        raise Refused(f"`{column}` is {kind(value)}, but `data.split_by` needs text or a number")
    raise Refused(f"lacks `{column}`, which `data.split_by` names.{nearest(column, map(str, keys))}")


LONGEST = 2048  # tokens a row under `max_length: auto`
COVERED = 0.99  # share of the rows that `max_length: auto` keeps

TOO_LONG = "over max_length"


@dataclass(frozen=True, eq=False)
class Assembled:
    """The arrays of the sides, where the rows of validation and test come from, and what all are."""

    sides: dict[str, SideArrays]
    original_rows: dict[str, list[OriginalRow]]
    summary: Summary


def assemble(
    data: DataConfig,
    sources: Sequence[Loaded],
    sides: Sequence[str],
    prompts: Prompts,
    window: int | None,
    seed: int,
    report: Callable[[str], None],
    memory_length: int | None = None,
) -> Assembled:
    """The arrays of train, validation and test, and what they are.

    Args:
        sides: for each source, `mix`, or the side whose rows it holds (test before validation).
        window: the longest sequence of the model, or None where it is not known.
        memory_length: the longest row that the device has memory for, for `max_length: auto`; None: not known.

    Raises InputError for what cannot be had, and under `strict` for rows that would be dropped.
    """
    pool = pool_of(sources, prompts, data.split_by, report)
    lengths = np.array([len(row.tokens) for row in pool.encoded], dtype=np.int64)
    longest = _max_length(data, window, memory_length, lengths[pool.kept])
    pool.dropped[pool.kept & (lengths > longest)] = TOO_LONG
    if data.strict:
        _refuse_drops(sources, pool, longest)
    _drop_twins(pool, sides, data.split_by)
    _refuse_empty(sources, pool, longest)
    indices = _sides(data, pool, sides, seed)
    arrays = {
        side: join([pool.encoded[row].tokens for row in rows], [pool.encoded[row].trained for row in rows])
        for side, rows in indices.items()
    }
    report("looking for near-duplicates across the split")
    alike, filled = _near_training(pool, indices)
    counts = {side: _side_summary(indices[side], pool, arrays[side], alike, filled, len(sources)) for side in SIDES}
    summary = Summary(
        sources=tuple(_source_summaries(sources, sides, pool, prompts)),
        train=counts["train"],
        validation=counts["validation"],
        test=counts["test"],
        mixture=data.mixture,
        prompt=prompts.style,
        max_length=longest,
        train_on=data.train_on,
        split_by=data.split_by,
    )
    return Assembled(arrays, {side: _original_rows(indices[side], pool, sources) for side in ORIGINAL_SIDES}, summary)


def _max_length(data: DataConfig, window: int | None, memory: int | None, lengths: Indices) -> int:
    """The longest row that is kept. Under `strict`, `auto` covers all rows, since none may be dropped."""
    if data.max_length != "auto":
        if window is not None and data.max_length > window:
            what = f"{data.max_length} tokens are more than the model's window of {window}: write at most {window}"
            raise InputError(Fault(what, key="data.max_length"))
        return data.max_length
    if not len(lengths):
        return LONGEST
    covering = int(np.quantile(lengths, 1.0 if data.strict else COVERED, method="inverted_cdf"))
    return min(covering, LONGEST, window or LONGEST, memory or LONGEST)


def _refuse_drops(sources: Sequence[Loaded], pool: Pool, longest: int) -> None:
    """Under `strict`: every row that would be dropped is a fault."""
    faults = list[Fault]()
    for number, source in enumerate(sources):
        found = list[Fault]()
        for index in np.flatnonzero((pool.source == number) & ~pool.kept).tolist():
            long = f"{len(pool.encoded[index].tokens):,} tokens, over the max_length of {longest:,}"
            what = long if pool.dropped[index] == TOO_LONG else "the response is empty"
            found.append(source.place.fault(pool.row(index).line, f"{what} (`data.strict` is on: nothing is dropped)"))
        faults += capped(found, source.place)
    refuse(faults)


def _drop_twins(pool: Pool, sides: Sequence[str], column: str | None) -> None:
    """Where a side is a file of its own, no equal text may stand elsewhere: the test file keeps it, then validation.

    Nor may a row of a group of `split_by` that the file holds.
    """
    kinds = [(pool.words, "also in the {side} file")]
    if pool.column is not None:
        kinds.append((pool.column, f"its `{column}` is also in the {{side}} file"))
    for side in ("test", "validation"):
        if side in sides:
            own = pool.kept & (pool.source == sides.index(side))
            for labels, reason in kinds:
                pool.dropped[pool.kept & ~own & np.isin(labels, labels[own])] = reason.format(side=side)


def _refuse_empty(sources: Sequence[Loaded], pool: Pool, longest: int) -> None:
    """A source that keeps no row is a fault."""
    faults = list[Fault]()
    for number, source in enumerate(sources):
        if not pool.of(number):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in pool.reasons(number).items())
            rows = np.count_nonzero(pool.source == number)
            what = f"keeps none of its {rows:,} rows ({reasons}; max_length {longest:,})"
            faults.append(source.place.fault(None, what))
    refuse(faults)


def _sides(data: DataConfig, pool: Pool, sides: Sequence[str], seed: int) -> dict[str, Indices]:
    """The rows of each side: indices into the pool."""
    rows = data.rows if data.split_rows is None else None if data.split_rows == "all" else data.split_rows
    mixed = sides.count("mix")
    mix = np.flatnonzero(pool.kept & (pool.source < mixed))
    sizes = np.bincount(pool.source[mix], minlength=mixed).tolist()
    shares = [source.share for source in data.sources if source.share is not None] or None
    wanted = [None if isinstance(side, RowsFile) else side for side in (data.validation, data.test)]
    rng = np.random.default_rng([seed, 0])
    if data.mixture == "repeat":
        counts = split.side_sizes(rows or len(mix), *wanted, exact=True)
        drawn = split.draw(pool.source[mix], pool.group[mix], shares or [1.0], counts, rng)
        parts = [mix[side] for side in drawn]
    else:
        chosen = mix[split.choose(data.mixture, sizes, shares, rows, rng)]
        _, validation, test = split.side_sizes(len(chosen), *wanted, exact=False)
        together = f"rows of one `{data.split_by}`, and equal texts," if data.split_by else "equal texts"
        found = split.split(pool.source[chosen], pool.group[chosen], validation, test, rng, together)
        parts = [chosen[side] for side in found]
    if data.split_rows is not None and data.rows is not None and data.rows < (total := sum(map(len, parts))):
        kept = split.side_sizes(min(data.rows, total), *wanted, exact=data.mixture == "repeat")
        parts = [side[split.smaller(pool.source[side], count, rng)] for side, count in zip(parts, kept, strict=True)]
    own = {side: np.array(pool.of(number)) for number, side in enumerate(sides) if side != "mix"}
    return {**dict(zip(SIDES, parts, strict=True)), **own}


def _source_summaries(
    sources: Sequence[Loaded], sides: Sequence[str], pool: Pool, prompts: Prompts
) -> Iterator[SourceSummary]:
    for number, source in enumerate(sources):
        kept, made = pool.of(number), int(np.count_nonzero(pool.source == number))
        yield SourceSummary(
            name=source.name,
            format=source.format,
            side=sides[number],
            read=len(source.rows),
            dropped=pool.reasons(number),
            kept=len(kept),
            prompt_tokens=mean_question([pool.question(row) for row in kept], prompts),
            response_tokens=float(np.mean([np.count_nonzero(pool.encoded[row].trained) for row in kept])),
            unrolled=made if made > len(source.rows) else 0,
        )


def _near_training(pool: Pool, indices: dict[str, Indices]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each row of the pool, whether it is held out and nearly a training row; whether it is of one's template."""
    training = np.unique(indices["train"]).tolist()
    held = np.unique(np.concatenate([indices["validation"], indices["test"]])).tolist()
    alike, filled = np.zeros((2, len(pool.encoded)), dtype=np.bool_)
    texts = [pool.text(row) for row in held]
    alike[held] = near(texts, (pool.text(row) for row in training))
    filled[held] = templated(texts, lambda: (pool.text(row) for row in training))
    return alike, filled


def _side_summary(
    rows: Indices,
    pool: Pool,
    arrays: SideArrays,
    alike: NDArray[np.bool_],
    filled: NDArray[np.bool_],
    sources: int,
) -> SideSummary:
    return SideSummary(
        rows=len(rows),
        distinct=len(np.unique(pool.words[rows])),
        by_source=tuple(np.bincount(pool.source[rows], minlength=sources).tolist()),
        tokens=len(arrays.tokens),
        label_tokens=int(np.count_nonzero(arrays.trained)),
        near=int(np.count_nonzero(alike[rows])),
        templated=int(np.count_nonzero(filled[rows])),
    )


def _original_rows(rows: Indices, pool: Pool, sources: Sequence[Loaded]) -> list[OriginalRow]:
    found = []
    for number in rows.tolist():
        row = pool.row(number)
        found.append(
            OriginalRow(sources[pool.source[number]].name, row.line, original(row), pool.encoded[number].answer)
        )
    return found
