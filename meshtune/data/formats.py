"""The formats that rows come in, told by their keys.

Guarantees: whatever is wrong with a row is a fault with file and line, of all rows at once. Does not read files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshtune.data.conversations import conversation
from meshtune.data.rows import NO_TEXT, SURROGATE, Conversation, Place, Row, kind, listed
from meshtune.errors import Fault, nearest


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
CHATS: Mapping[str, str] = {"messages": "messages", "sharegpt": "conversations"}  # the key that holds the turns


def recognise(keys: Iterable[str], named: str) -> tuple[str, str]:
    """The format that rows with these keys have, or "" and the reason. `named` is a format's name or `auto`.

    The context key may be missing (the context is then empty), but not under a name that looks like a slip of it.
    """
    present = list(keys)
    shapes: dict[str, tuple[str, ...]] = {name: (shape.prompt, shape.response) for name, shape in FORMATS.items()}
    shapes |= {name: (key,) for name, key in CHATS.items()}
    found = [named] if named != "auto" else [name for name, needed in shapes.items() if set(needed) <= set(present)]
    if not found:
        known = "; ".join(f"{name}: {', '.join(needed)}" for name, needed in shapes.items())
        return "", f"the keys {listed(present)} fit no known format ({known}). Rename them."
    if len(found) > 1:
        return "", f"the keys {listed(present)} fit {' and '.join(found)}: name one with `format:`"
    context = FORMATS[found[0]].context if found[0] in FORMATS else None
    if context is not None and context not in present:
        others = [key for key in present if key not in shapes[found[0]]]
        slip = difflib.get_close_matches(context, others, n=1, cutoff=0.75)
        if slip:
            return "", f"the key `{slip[0]}` is not part of the format {found[0]}; rename it `{context}`"
    return found[0], ""


def parse(
    items: Iterable[tuple[int, object]], named: str, place: Place
) -> tuple[str, list[Row | Conversation], list[Fault]]:
    """Rows of (number, value) pairs: the format's name, the rows, and a fault for each value that is no such row.

    The first row decides the format; extra keys are allowed; a null is an empty text. A row may also be a bare list of
    messages.
    """
    name, rows, faults = "", list[Row | Conversation](), list[Fault]()
    for number, item in items:
        keyed = {"messages": item} if _is_messages(item) else item
        if not isinstance(keyed, Mapping):
            faults.append(place.fault(number, f"a row must be an object with named values, not {kind(item)}"))
            continue
        if not name:
            name, reason = recognise(keyed, named)
            if not name:
                return "", [], [*faults, place.fault(number, reason)]
        parsed = _row(keyed, name, number, item)
        if isinstance(parsed, str):
            faults.append(place.fault(number, parsed))
        else:
            rows.append(parsed)
    return name, rows, faults


def _is_messages(item: object) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], Mapping) and "role" in item[0]


def _row(keyed: Mapping[str, object], name: str, number: int, item: object) -> Row | Conversation | str:
    """The row, or what is wrong with it."""
    shape = FORMATS.get(name)
    needed = (shape.prompt, shape.response) if shape else (CHATS[name],)
    missing = [key for key in needed if key not in keyed]
    if missing:
        hint = nearest(missing[0], (str(key) for key in keyed))
        return f"lacks {listed(missing)}, which rows of the format {name} need.{hint}"
    if shape is None:
        return conversation(keyed, CHATS[name], number, item)
    texts = []
    for key in (shape.prompt, shape.context, shape.response):
        value = keyed.get(key) if key is not None else None
        if value is not None and not isinstance(value, str):
            return f"`{key}` must be text, not {kind(value)}"
        text = value or ""
        if SURROGATE.search(text):
            return f"`{key}` {NO_TEXT}"
        texts.append(text)
    return Row(texts[0], texts[1], texts[2], verbatim=shape.context is None, line=number, item=item)
