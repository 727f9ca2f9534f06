"""Chats as rows have them: OpenAI's `messages` (role, content) and ShareGPT's `conversations` (from, value).

Both become turns as chat templates take them; either naming of the turns is read under either key. Guarantees: a
conversation that is returned has an assistant turn and nothing but text; whatever is wrong with another is told, with
the turn. What a template refuses (roles that do not alternate, say) is the template's to tell.

Limits: a null inside of a tool call that comes from Parquet or a data set is handed on, since it may be meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from meshtune.data.rows import NO_TEXT, SURROGATE, Conversation, kind
from meshtune.errors import nearest

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
        hint = nearest(speaker, (str(name) for name in turn))
        raise _Fault(f"{where} says neither `role` nor `from`.{hint}")
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
