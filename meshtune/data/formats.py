"""The formats that rows come in, recognised by their keys: questions with answers, and chats.

Chats are OpenAI's `messages` (role, content) and ShareGPT's `conversations` (from, value). Both become turns as chat
templates take them; either naming of the turns is read under either key.

Guarantees: whatever is wrong with a row is a fault with file, line and, of a chat, the turn, of all rows at once. A
conversation that is returned has an assistant turn and nothing but text. Does not read files. What a template refuses
(roles that do not alternate, say) is the template's to say.
Limits: a null inside of a tool call that comes from Parquet or a data set is handed on, since it may be meant.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
        return f"lacks {listed(missing)}, which rows of the format {name} need.{_slip(missing[0], keyed)}"
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


def _slip(key: str, given: Iterable[object]) -> str:
    """What to rename, where one of the given keys looks like a slip of `key`."""
    match = difflib.get_close_matches(key, map(str, given), n=1)
    return f" Rename `{match[0]}` to `{key}`." if match else ""


# Names of speakers, as they are met, and the role that templates know. `developer` is OpenAI's newer word for system.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_ALLOWED = {
    "role": ("system", "developer", "user", "assistant", "tool", "function"),
    "from": ("system", "human", "user", "gpt", "assistant", "model", "function_call", "tool", "observation",
             "function_response"),
}  # fmt: skip
_VISION = (
    "only text can be learned; images, sound and video need a vision or speech model, which meshtune does not tune"
)


class _Fault(ValueError):
    """What is wrong with a row; never leaves this module."""


def conversation(keyed: Mapping[str, object], key: str, number: int, item: object) -> Conversation | str:
    """The conversation under `key` of a row, or what is wrong with it.

    Args:
        keyed: the row; also read are `tools` and, where no turn of the system is given, `system`.
        number: its line. item: the row as the source has it.
    """
    try:
        turns, unlearned = _turns(_decoded(keyed[key], f"`{key}`"), key)
        system = keyed.get("system")
        if isinstance(system, str) and system.strip():
            if turns[0]["role"] == "system":
                raise _Fault(f"`system` and a system turn in `{key}` are both given: remove one of them")
            _check_text(system, "`system`")
            turns = [{"role": "system", "content": system}, *turns]
            unlearned = {turn + 1 for turn in unlearned}
        tools = _decoded(keyed["tools"], "`tools`") if keyed.get("tools") else None
        _check_text(tools, "`tools`")
    except _Fault as fault:
        return str(fault)
    answers = {turn for turn, one in enumerate(turns) if one["role"] == "assistant"}
    if not answers:
        return "holds no assistant turn, and so nothing to learn: remove the row"
    if answers <= unlearned:
        return "every assistant turn has `weight: 0`, so that there is nothing to learn: remove the row"
    return Conversation(tuple(turns), tools, frozenset(unlearned), number, item)


def _decoded(value: object, what: str) -> list[Any]:
    """A list; CSV and some data sets hold it as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _Fault(f"{what} is text, but no JSON list ({error})") from error
    if not isinstance(value, list):
        raise _Fault(f"{what} must be a list, not {kind(value)}")
    return value


def _turns(given: list[Any], key: str) -> tuple[list[dict[str, Any]], set[int]]:
    """The turns, and the numbers of those with `weight: 0`."""
    if not given:
        raise _Fault(f"`{key}` is an empty conversation: remove the row")
    turns, unlearned = list[dict[str, Any]](), set[int]()
    for index, turn in enumerate(given):
        where = f"turn {index + 1} of `{key}`"
        if not isinstance(turn, Mapping):
            raise _Fault(f"{where} must be an object, not {kind(turn)}")
        _check_text(turn, where)
        turns.append(_turn(turn, where))
        if turn.get("weight") in (0, 0.0) and turn.get("weight") is not None:
            unlearned.add(index)
    return turns, unlearned


def _turn(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    speaker, said = ("from", "value") if "from" in turn and "role" not in turn else ("role", "content")
    if speaker not in turn:
        raise _Fault(f"{where} says neither `role` nor `from`.{_slip(speaker, turn)}")
    name = turn[speaker]
    if not isinstance(name, str) or name not in _ROLES:
        allowed = _ALLOWED[speaker]
        hint = nearest(str(name), allowed)
        raise _Fault(f"{where} has the unknown {speaker} `{name}`; known are {', '.join(allowed)}.{hint}")
    # Data sets give every turn all keys, null where they are absent.
    others = {
        other: value for other, value in turn.items() if other not in (speaker, said, "weight") and value is not None
    }
    if calls := others.get("tool_calls"):
        others["tool_calls"] = [_call(call, where) for call in _decoded(calls, f"`tool_calls` of {where}")]
    else:
        others.pop("tool_calls", None)
    content = turn.get(said)
    if content is None and "tool_calls" not in others:
        raise _Fault(f"{where} has no `{said}`")
    text = _text(content, where)
    if name == "function_call" and (calls := _spoken_calls(text)):
        text, others["tool_calls"] = "", calls
    return {"role": _ROLES[name], "content": text, **others}


def _text(content: object, where: str) -> str:
    """The text of a turn; parts of text are put together."""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type", "text") != "text":
                what = part.get("type") if isinstance(part, Mapping) else kind(part)
                raise _Fault(f"{where} holds a part of the type `{what}`: {_VISION}")
        content = "".join(part.get("text") or "" for part in content)
    if content is not None and not isinstance(content, str):
        raise _Fault(f"the content of {where} must be text, not {kind(content)}")
    return content or ""


def _check_text(value: object, what: str) -> None:
    """Half a surrogate pair anywhere in a value would stop the tokenizer."""
    match value:
        case str() if SURROGATE.search(value):
            raise _Fault(f"{what} {NO_TEXT}")
        case Mapping():
            for key, one in value.items():
                _check_text(key, what)
                _check_text(one, what)
        case list():
            for one in value:
                _check_text(one, what)
        case _:
            pass


def _call(call: object, where: str) -> dict[str, Any]:
    """A tool call; OpenAI writes the arguments as JSON text, templates expect an object."""
    if not isinstance(call, Mapping):
        raise _Fault(f"a tool call of {where} must be an object, not {kind(call)}")
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _call(inner, where)}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            decoded = json.loads(arguments)
        except (ValueError, RecursionError):
            return dict(call)
        return {**call, "arguments": decoded if isinstance(decoded, dict) else arguments}
    return dict(call)


def _spoken_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a `function_call` turn, whose text is JSON with name and arguments; none: it is other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return []
    return [{"type": "function", "function": _call(call, "this turn")} for call in calls]
