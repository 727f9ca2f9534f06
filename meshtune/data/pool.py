"""All rows of all sources, rendered and tokenized, with what must stay together in the split.

Guarantees: rows of equal text, of one conversation, and of one value of `split_by` are in one group. Faults of rows
that cannot be shown to the model come with file and line, of all sources at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshtune.data import split
from meshtune.data.chat import Refused
from meshtune.data.mixture import Indices
from meshtune.data.prompts import Prompts
from meshtune.data.rows import Conversation, Row, capped, kind
from meshtune.data.sources import Loaded
from meshtune.data.tokens import Encoded, Rendered, encode
from meshtune.errors import Fault, InputError, nearest

EMPTY = "empty response"


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
    values = _values(sources, split_by) if split_by is not None else None
    rendered = _rendered(sources, prompts)
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


def _rendered(sources: Sequence[Loaded], prompts: Prompts) -> list[list[Rendered]]:
    """The texts of each row."""
    rendered, faults = list[list[Rendered]](), list[Fault]()
    for source in sources:
        found = list[Fault]()
        for row in source.rows:
            try:
                rendered.append(prompts.render(row))
            except Refused as refused:
                found.append(source.place.fault(row.line, str(refused)))
        faults += capped(found, source.place)
    if faults:
        raise InputError(faults)
    return rendered


def _values(sources: Sequence[Loaded], column: str) -> list[str | int | float | bool]:
    """The column's value of each row."""
    values, faults = list[str | int | float | bool](), list[Fault]()
    for source in sources:
        found = list[Fault]()
        for row in source.rows:
            item = original(row)
            keys = item if isinstance(item, Mapping) else {}
            value = keys.get(column)
            if isinstance(value, str | int | float):
                values.append(value)
            elif column in keys:
                what = f"`{column}` is {kind(value)}, but `data.split_by` needs text or a number"
                found.append(source.place.fault(row.line, what))
            else:
                hint = nearest(column, map(str, keys))
                found.append(source.place.fault(row.line, f"lacks `{column}`, which `data.split_by` names.{hint}"))
        faults += capped(found, source.place)
    if faults:
        raise InputError(faults)
    return values
