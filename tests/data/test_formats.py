import json
from pathlib import Path
from typing import Any

import pytest

from meshtune.data.formats import parse
from meshtune.data.rows import Conversation, Place, Row, capped

PLACE = Place(Path("rows.jsonl"))


@pytest.mark.parametrize(
    ("item", "name", "row"),
    [
        ({"instruction": "i", "input": "c", "output": "o", "status": "ok"}, "alpaca", Row("i", "c", "o", False, 1)),
        ({"instruction": "i", "output": "o"}, "alpaca", Row("i", "", "o", False, 1)),
        ({"instruction": "i", "context": None, "response": "r"}, "dolly", Row("i", "", "r", False, 1)),
        ({"prompt": "p", "completion": "c"}, "prompt-completion", Row("p", "", "c", True, 1)),
        ({"prompt": "p", "response": "r"}, "prompt-response", Row("p", "", "r", True, 1)),
    ],
)
def test_formats_are_recognised_by_their_keys(item: dict[str, object], name: str, row: Row) -> None:
    assert parse([(1, item)], "auto", PLACE) == (name, [row], [])
    assert parse([(1, item)], name, PLACE) == (name, [row], [])


def message(item: object, named: str = "auto") -> str:
    return "\n".join(map(str, parse([(7, item)], named, PLACE)[2]))


def test_what_fits_no_format_or_several_is_a_fault() -> None:
    assert message({"question": "q", "answer": "a"}).startswith(
        "rows.jsonl:7: the keys `question`, `answer` fit no known format (alpaca: instruction, output; dolly:"
    )
    both = {"prompt": "p", "completion": "c", "response": "r"}
    assert "fit prompt-completion and prompt-response: name one with `format:`" in message(both)
    assert message(both, "prompt-response") == ""


def test_a_context_under_a_mistaken_name_is_not_lost_silently() -> None:
    item = {"instruction": "i", "inputs": "c", "output": "o"}
    assert message(item) == "rows.jsonl:7: the key `inputs` is not part of the format alpaca; rename it `input`"


def test_every_bad_row_is_a_fault_with_its_line() -> None:
    good = {"instruction": "i", "input": "", "output": "o"}
    bad = [{"instruction": "i", "outptu": "o"}, ["i", "o"], {**good, "output": 3}, {**good, "output": "\ud800"}]
    name, rows, faults = parse(enumerate([good, *bad, good], 1), "auto", PLACE)
    assert (name, [row.line for row in rows]) == ("alpaca", [1, 6])
    assert [str(fault) for fault in faults] == [
        "rows.jsonl:2: lacks `output`, which rows of the format alpaca need. Rename `outptu` to `output`.",
        "rows.jsonl:3: a row must be an object with named values, not a list",
        "rows.jsonl:4: `output` must be text, not a number",
        "rows.jsonl:5: `output` holds half of a surrogate pair, which is no text; remove it",
    ]


def test_faults_are_capped_at_a_readable_number() -> None:
    faults = [PLACE.fault(line, "bad") for line in range(1, 31)]
    shown = capped(faults, PLACE)
    assert len(shown) == 11
    assert str(shown[-1]) == "rows.jsonl: and 20 more faults like these"
    assert capped(faults[:10], PLACE) == faults[:10]


CHATS = Place("chats.jsonl")


def read(item: object, named: str = "auto") -> Conversation:
    _, rows, faults = parse([(7, item)], named, CHATS)
    assert not faults, faults[0]
    assert isinstance(rows[0], Conversation)
    assert rows[0].item is item
    return rows[0]


def chat_message(item: object, named: str = "auto") -> str:
    return "\n".join(map(str, parse([(7, item)], named, CHATS)[2]))


def said(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


HELLO = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Ho!"}]


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"messages": HELLO, "id": 3}, "messages"),
        (HELLO, "messages"),
        ({"messages": json.dumps(HELLO)}, "messages"),
        ({"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho!"}]}, "sharegpt"),
        ({"conversations": HELLO}, "sharegpt"),
        ({"messages": [{**HELLO[0], "tool_calls": None}, {**HELLO[1], "tool_calls": []}], "tools": None}, "messages"),
        (said(("user", [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]), ("model", "Ho!")), "messages"),
    ],
)
def test_both_formats_give_the_same_turns(item: object, name: str) -> None:
    assert parse([(7, item)], "auto", CHATS)[0] == name
    assert read(item) == Conversation(tuple(HELLO), None, frozenset(), 7)
    assert read(item, name) == read(item)


def test_roles_of_sharegpt() -> None:
    speakers = ["system", "human", "function_call", "observation", "gpt"]
    values = ["Be.", "3?", '{"name": "add", "arguments": {"a": null}}', "3", "Three."]
    turns = [{"from": speaker, "value": value} for speaker, value in zip(speakers, values, strict=True)]
    found = read({"conversations": turns, "tools": '[{"name": "add"}]'})
    assert [turn["role"] for turn in found.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert found.tools == [{"name": "add"}]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": None}}}
    assert found.turns[2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert found.question(5) == "Be.\n\n3?\n\n3"
    turns[2]["value"] = "add(3)"
    assert read({"conversations": turns}).turns[2] == {"role": "assistant", "content": "add(3)"}
    assert read({"conversations": turns[1:], "system": "Be."}) == read({"conversations": turns})


def test_openais_tool_calls() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    answer = {"role": "assistant", "content": None, "tool_calls": calls}
    tool = {"role": "tool", "tool_call_id": "c1", "content": "3"}
    found = read({"messages": [{"role": "developer", "content": "Be."}, HELLO[0], answer, tool, HELLO[1]]})
    assert [turn["role"] for turn in found.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert found.turns[2]["tool_calls"] == [{**calls[0], "function": {"name": "add", "arguments": {"a": 1}}}]
    assert found.turns[3] == tool


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            said(("user", "Hi?"), ("asistant", "Ho!")),
            "turn 2 of `messages` has the unknown role `asistant`",
        ),
        (said(("user", "Hi?"), ("asistant", "Ho!")), "Did you mean `assistant`?"),
        (
            {"conversations": [{"from": "bot", "value": "x"}]},
            "has the unknown from `bot`; known are system, human, user",
        ),
        ({"messages": []}, "`messages` is an empty conversation: remove the row"),
        ({"messages": "Hi?"}, "`messages` is text, but no JSON list"),
        ({"messages": {"role": "user"}}, "`messages` must be a list, not an object"),
        ({"messages": ["Hi?"]}, "turn 1 of `messages` must be an object, not text"),
        ({"messages": [{"content": "Hi?"}]}, "turn 1 of `messages` says neither `role` nor `from`"),
        ({"messages": [{"role": "user"}]}, "turn 1 of `messages` has no `content`"),
        (said(("user", 3)), "the content of turn 1 of `messages` must be text, not a number"),
        (said(("user", "Hi?")), "holds no assistant turn, and so nothing to learn: remove the row"),
        (said(("user", "\ud800"), ("assistant", "Ho!")), "turn 1 of `messages` holds half of a surrogate pair"),
        (
            said(("user", [{"type": "image_url", "image_url": {"url": "x"}}]), ("assistant", "Ho!")),
            "turn 1 of `messages` holds a part of the type `image_url`: only text can be learned; images, sound and "
            "video need a vision or speech model, which meshtune does not tune",
        ),
        ({"messages": HELLO, "tools": "add"}, "`tools` is text, but no JSON list"),
        ({"messages": HELLO, "tools": {"name": "add"}}, "`tools` must be a list, not an object"),
        (
            {"messages": [{"role": "system", "content": "Be."}, *HELLO], "system": "Do."},
            "`system` and a system turn in `messages` are both given: remove one of them",
        ),
        (
            {"messages": [HELLO[0], {**HELLO[1], "weight": 0}]},
            "every assistant turn has `weight: 0`, so that there is nothing to learn: remove the row",
        ),
        (
            {"messages": [HELLO[0], {**HELLO[1], "tool_calls": ["x"]}]},
            "a tool call of turn 2 of `messages` must be an ob",
        ),
    ],
)
def test_what_is_wrong_is_told_with_line_and_turn(item: object, expected: str) -> None:
    assert chat_message(item).startswith("chats.jsonl:7: ")
    assert expected in chat_message(item)


def test_a_source_that_mixes_formats_and_a_row_that_fits_two() -> None:
    items = enumerate([{"messages": HELLO}, {"instruction": "i", "output": "o"}, {"message": HELLO}], 1)
    _, rows, faults = parse(items, "auto", CHATS)
    assert len(rows) == 1
    assert [str(fault) for fault in faults] == [
        "chats.jsonl:2: lacks `messages`, which rows of the format messages need.",
        "chats.jsonl:3: lacks `messages`, which rows of the format messages need. Rename `message` to `messages`.",
    ]
    both = {"messages": HELLO, "prompt": "Hi?", "completion": "Ho!"}
    assert "fit prompt-completion and messages: name one with `format:`" in chat_message(both)
    assert read(both, "messages") == read(HELLO)
