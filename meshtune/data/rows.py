"""One row of instruction data, and the formats that rows come in.

Guarantees: a row that is returned holds text that can be encoded; whatever is wrong with the others is a fault with
file and line. Does not read files and does not know how a row becomes tokens.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshtune.errors import Fault, nearest

SHOWN_FAULTS = 10
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answer.

    Attributes:
        prompt: the instruction or, of a verbatim row, the whole prompt as the model is to read it.
        context: what the instruction works on, or "".
        response: the answer that is learned.
        verbatim: the prompt is used as it is, never wrapped in a template.
        line: where it stands in its source, from 1.
    """

    prompt: str
    context: str
    response: str
    verbatim: bool
    line: int


@dataclass(frozen=True)
class RowFormat:
    """The keys of a format: prompt, context (None: the format has none, and its prompt is verbatim), response."""

    prompt: str
    context: str | None
    response: str


FORMATS: Mapping[str, RowFormat] = {
    "alpaca": RowFormat("instruction", "input", "output"),
    "dolly": RowFormat("instruction", "context", "response"),
    "prompt-completion": RowFormat("prompt", None, "completion"),
    "prompt-response": RowFormat("prompt", None, "response"),
}


@dataclass(frozen=True)
class Place:
    """Where rows stand: a file or the name of a data set, and what its numbers count (`line` or `row`)."""

    name: Path | str
    unit: str = "line"

    def fault(self, number: int | None, message: str) -> Fault:
        """A fault at that line, or at that row where the source has no lines."""
        if number is not None and self.unit == "row":
            return Fault(f"row {number}: {message}", self.name)
        return Fault(message, self.name, number)


def capped(faults: list[Fault], place: Place) -> list[Fault]:
    """The first faults, and how many more there are: a readable number of a source's."""
    more = len(faults) - SHOWN_FAULTS
    return faults if more <= 0 else [*faults[:SHOWN_FAULTS], place.fault(None, f"and {more} more faults like these")]


def recognise(keys: Iterable[str], named: str) -> tuple[str, str]:
    """The format that rows with these keys have, or "" and the reason. `named` is a format's name or `auto`.

    The context key may be missing (the context is then empty), but not under a name that looks like a slip of it.
    """
    present = list(keys)
    shapes = {name: (shape.prompt, shape.response) for name, shape in FORMATS.items()}
    found = [named] if named != "auto" else [name for name, needed in shapes.items() if set(needed) <= set(present)]
    if not found:
        known = "; ".join(f"{name}: {', '.join(needed)}" for name, needed in shapes.items())
        return "", f"the keys {_listed(present)} fit no known format ({known}). Rename them."
    if len(found) > 1:
        return "", f"the keys {_listed(present)} fit {' and '.join(found)}: name one with `format:`"
    context = FORMATS[found[0]].context
    if context is not None and context not in present:
        others = [key for key in present if key not in shapes[found[0]]]
        slip = difflib.get_close_matches(context, others, n=1, cutoff=0.75)
        if slip:
            return "", f"the key `{slip[0]}` is not part of the format {found[0]}; rename it `{context}`"
    return found[0], ""


def parse(items: Iterable[tuple[int, object]], named: str, place: Place) -> tuple[str, list[Row], list[Fault]]:
    """Rows of (number, value) pairs: the format's name, the rows, and a fault for each value that is no such row.

    The first mapping decides the format; extra keys are allowed; a null is an empty text.
    """
    name, rows, faults = "", list[Row](), list[Fault]()
    for number, item in items:
        if not isinstance(item, Mapping):
            faults.append(place.fault(number, f"a row must be an object with named values, not {_kind(item)}"))
            continue
        if not name:
            name, reason = recognise(item, named)
            if not name:
                return "", [], [*faults, place.fault(number, reason)]
        parsed = _row(item, FORMATS[name], name, number)
        if isinstance(parsed, Row):
            rows.append(parsed)
        else:
            faults.append(place.fault(number, parsed))
    return name, rows, faults


def _row(item: Mapping[str, object], shape: RowFormat, name: str, number: int) -> Row | str:
    """The row, or what is wrong with it."""
    missing = [key for key in (shape.prompt, shape.response) if key not in item]
    if missing:
        hint = nearest(missing[0], (str(key) for key in item))
        return f"lacks {_listed(missing)}, which rows of the format {name} need.{hint}"
    texts = []
    for key in (shape.prompt, shape.context, shape.response):
        value = item.get(key) if key is not None else None
        if value is not None and not isinstance(value, str):
            return f"`{key}` must be text, not {_kind(value)}"
        text = value or ""
        if _SURROGATE.search(text):
            return f"`{key}` holds half of a surrogate pair, which is no text; remove it"
        texts.append(text)
    return Row(texts[0], texts[1], texts[2], verbatim=shape.context is None, line=number)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number", str: "text"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)
