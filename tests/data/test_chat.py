"""Masks against goldens made by hand: what is learned stands between «guillemets»."""

import importlib.resources
import json
from typing import Any

import numpy as np
import pytest

from meshtune.data.chat import Refused
from meshtune.data.formats import parse
from meshtune.data.prompts import build
from meshtune.data.rows import Conversation, Place
from meshtune.data.tokens import encode
from meshtune.errors import InputError
from tests.data.templates import GEMMA, LLAMA_3, MISTRAL, QWEN_2_5, QWEN_3, tokenizer

S, U, A, T = "system", "user", "assistant", "tool"
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS = [{"type": "function", "function": {"name": "add"}}]

TWO = [(U, "Hi?"), (A, " Ho!\n")]
FOUR = [(U, "1?"), (A, "one"), (U, "2?"), (A, "zwölf")]
SIX = [(S, "Be."), (U, "1?"), (A, "one"), (U, "2?"), (A, "two"), (U, "3?"), (A, "three")]
CALLED = [(S, "Be."), (U, "sum?"), (A, [CALL]), (T, "3"), (A, "It is 3."), (U, "ok?"), (A, "ok")]
THOUGHT = [(U, "1?"), (A, "<think>\nuno\n</think>\n\none"), (U, "2?"), (A, "<think>\ndue\n</think>\n\ntwo")]


def conversation(turns: list[tuple[str, Any]], **more: Any) -> Conversation:
    said = [
        {"role": role, "content": text} if isinstance(text, str) else {"role": role, "tool_calls": text}
        for role, text in turns
    ]
    _, (row,), faults = parse([(1, {"messages": said, **more})], "auto", Place("rows"))
    assert not faults
    assert isinstance(row, Conversation)
    return row


def learned(template: str, turns: list[tuple[str, Any]], train_on: Any = "all", **arguments: Any) -> list[str]:
    """The rows' texts, what is learned between guillemets; checks the tokens on the way."""
    fast = tokenizer(template)
    prompts = build("auto", fast, conversations=True, train_on=train_on, arguments=arguments)
    rows = prompts.render(conversation(turns))
    shown = []
    for row, found in zip(rows, encode(rows, fast, lambda message: None), strict=True):
        # With special tokens at its borders, an answer's tokens are those of the whole text.
        assert found.tokens.tolist() == fast(row.text, add_special_tokens=False)["input_ids"]
        parts, begin = [], 0
        for border in [*(np.flatnonzero(np.diff(found.trained)) + 1).tolist(), len(found.tokens)]:
            piece = fast.decode(found.tokens[begin:border])
            parts.append(f"«{piece}»" if found.trained[border - 1] else piece)
            begin = border
        shown.append("".join(parts))
        assert fast.decode(found.tokens[found.answer :]) == row.text[row.answer :]
    return shown


def llama(*turns: tuple[str, str]) -> str:
    """Llama 3's text of turns, written out once more."""
    return "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}" for role, text in turns
    )


def test_llama_3() -> None:
    end = "<|eot_id|>"
    assert learned(LLAMA_3, TWO) == [llama((U, "Hi?" + end), (A, f"«Ho!{end}»"))]
    four = llama((U, "1?" + end), (A, f"«one{end}»"), (U, "2?" + end), (A, f"«zwölf{end}»"))
    assert learned(LLAMA_3, FOUR) == [four]
    assert learned(LLAMA_3, SIX) == [
        llama(
            (S, "Be." + end),
            (U, "1?" + end),
            (A, f"«one{end}»"),
            (U, "2?" + end),
            (A, f"«two{end}»"),
            (U, "3?" + end),
            (A, f"«three{end}»"),
        )
    ]
    assert learned(LLAMA_3, CALLED) == [
        llama(
            (S, "Be." + end),
            (U, "sum?" + end),
            (A, f'«{{"name": "add", "parameters": {{"a": 1}}}}{end}»'),
            ("ipython", "3" + end),
            (A, f"«It is 3.{end}»"),
            (U, "ok?" + end),
            (A, f"«ok{end}»"),
        )
    ]


USED = "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>"
ADD = '\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def test_qwen_2_5() -> None:
    own = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n"
    assert learned(QWEN_2_5, TWO) == [own + "Hi?<|im_end|>\n<|im_start|>assistant\n« Ho!\n<|im_end|>»"]
    four = (
        "1?<|im_end|>\n<|im_start|>assistant\n«one<|im_end|>»\n<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert learned(QWEN_2_5, FOUR) == [own + four + "«zwölf<|im_end|>»"]
    assert learned(QWEN_2_5, SIX) == [
        "<|im_start|>system\nBe.<|im_end|>\n"
        "<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n«one<|im_end|>»\n"
        "<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n«two<|im_end|>»\n"
        "<|im_start|>user\n3?<|im_end|>\n<|im_start|>assistant\n«three<|im_end|>»"
    ]
    assert learned(QWEN_2_5, CALLED) == [
        "<|im_start|>system\nBe.<|im_end|>\n"
        f"<|im_start|>user\nsum?<|im_end|>\n<|im_start|>assistant\n«{ADD}<|im_end|>»\n"
        f"{USED}\n<|im_start|>assistant\n«It is 3.<|im_end|>»\n"
        "<|im_start|>user\nok?<|im_end|>\n<|im_start|>assistant\n«ok<|im_end|>»"
    ]


def test_qwen_3_is_unrolled_since_it_drops_earlier_thoughts() -> None:
    first, then = "<|im_start|>user\n1?<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\n2?<|im_end|>\n"
    then += "<|im_start|>assistant\n"
    assert learned(QWEN_3, THOUGHT) == [
        first + "«<think>\nuno\n</think>\n\none<|im_end|>»",
        first + "one<|im_end|>\n" + then + "«<think>\ndue\n</think>\n\ntwo<|im_end|>»",
    ]
    assert learned(QWEN_3, THOUGHT, "last") == learned(QWEN_3, THOUGHT)[1:]
    # Without thoughts too: the last answer alone has an empty one.
    assert learned(QWEN_3, FOUR) == [
        first + "«<think>\n\n</think>\n\none<|im_end|>»",
        first + "one<|im_end|>\n" + then + "«<think>\n\n</think>\n\nzwölf<|im_end|>»",
    ]
    empty = "<think>\n\n</think>\n\n"
    assert learned(QWEN_3, FOUR, enable_thinking=False) == [
        first + empty + "«one<|im_end|>»",
        first + "one<|im_end|>\n" + then + empty + "«zwölf<|im_end|>»",
    ]
    sum_row, used_row, last_row = learned(QWEN_3, CALLED)
    assert sum_row.endswith(f"assistant\n«{empty}{ADD}<|im_end|>»")
    assert used_row.endswith(f"assistant\n{ADD}<|im_end|>\n{USED}\n<|im_start|>assistant\n«{empty}It is 3.<|im_end|>»")
    assert last_row.endswith(f"ok?<|im_end|>\n<|im_start|>assistant\n«{empty}ok<|im_end|>»")
    assert len(learned(QWEN_3, SIX)) == 3


def test_a_thought_that_the_prompt_already_denies_is_refused() -> None:
    with pytest.raises(Refused, match=r"the answer of turn 2 .*`enable_thinking: false`\): change the answer"):
        learned(QWEN_3, THOUGHT, enable_thinking=False)


def test_gemma() -> None:
    one = "<bos><start_of_turn>user\n1?<end_of_turn>\n<start_of_turn>model\n«one<end_of_turn>»\n"
    assert learned(GEMMA, FOUR) == [
        one + "<start_of_turn>user\n2?<end_of_turn>\n<start_of_turn>model\n«zwölf<end_of_turn>»"
    ]
    for turns in (SIX, CALLED):
        with pytest.raises(Refused, match="the model's chat template refuses it: System role not supported"):
            learned(GEMMA, turns)
    twice = [(U, "1?"), (A, "one"), (U, "2?"), (U, "3?"), (A, "three")]
    with pytest.raises(Refused, match=r"roles must alternate user/assistant.* \(turns 3 and 4 are both `user`\)"):
        learned(GEMMA, twice)


def test_mistral_is_unrolled_where_a_system_turn_moves() -> None:
    assert learned(MISTRAL, TWO) == ["<s>[INST] Hi?[/INST]« Ho!</s>»"]
    assert learned(MISTRAL, FOUR) == ["<s>[INST] 1?[/INST]« one</s>»[INST] 2?[/INST]« zwölf</s>»"]
    assert learned(MISTRAL, SIX) == [
        "<s>[INST] Be.\n\n1?[/INST]« one</s>»",
        "<s>[INST] 1?[/INST] one</s>[INST] Be.\n\n2?[/INST]« two</s>»",
        "<s>[INST] 1?[/INST] one</s>[INST] 2?[/INST] two</s>[INST] Be.\n\n3?[/INST]« three</s>»",
    ]
    call = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]</s>'
    assert learned(MISTRAL, CALLED[1:]) == [
        f"<s>[INST] sum?[/INST]«{call}»[TOOL_RESULTS] 3[/TOOL_RESULTS]« It is 3.</s>»[INST] ok?[/INST]« ok</s>»"
    ]


def test_the_last_answer_alone_and_everything() -> None:
    assert learned(GEMMA, FOUR, "last") == [
        "<bos><start_of_turn>user\n1?<end_of_turn>\n<start_of_turn>model\none<end_of_turn>\n"
        "<start_of_turn>user\n2?<end_of_turn>\n<start_of_turn>model\n«zwölf<end_of_turn>»"
    ]
    assert learned(MISTRAL, FOUR, "everything") == ["<s>«[INST] 1?[/INST] one</s>[INST] 2?[/INST] zwölf</s>»"]
    assert len(learned(QWEN_3, SIX, "everything")) == 1


# Gemma's template with marks around what is said, the end of the turn outside of them.
MARKED = GEMMA.replace(
    " + m.content | trim + '<end_of_turn>\\n' }}",
    " }}{% if role == 'model' %}{% generation %}{{- m.content | trim }}{% endgeneration %}"
    "{% else %}{{- m.content | trim }}{% endif %}{{- '<end_of_turn>\\n' }}",
)


def test_marks_say_where_answers_begin_and_the_end_of_the_turn_belongs_to_them() -> None:
    assert "{% generation %}" in MARKED
    assert learned(MARKED, FOUR) == learned(GEMMA, FOUR)
    # What stands before the mark is not learned, though the prompt does not hold it.
    greeting = MARKED.replace("{% generation %}", "{{- 'So: ' }}{% generation %}")
    assert learned(greeting, FOUR) == [text.replace("«", "So: «") for text in learned(GEMMA, FOUR)]
    assert learned(greeting, FOUR, "last")[0].count("«") == 1


def test_what_is_not_learned() -> None:
    opened = [(A, "Hello!"), *FOUR]
    assert learned(LLAMA_3, opened)[0].startswith(llama((A, "Hello!<|eot_id|>"), (U, "1?<|eot_id|>"), (A, "«one")))
    assert learned(LLAMA_3, [*FOUR, (U, "and?")]) == learned(LLAMA_3, FOUR)
    emptied = [(U, "1?"), (A, " "), (U, "2?"), (A, "two")]
    assert [text.count("«") for text in learned(LLAMA_3, emptied)] == [1]
    with pytest.raises(Refused, match="no answer that is learned comes after a question"):
        learned(LLAMA_3, [(A, "Hello!"), (U, "?")])
    weighed = [{"role": role, "content": text, "weight": int(text != "one")} for role, text in FOUR]
    _, (row,), _ = parse([(1, weighed)], "auto", Place("rows"))
    (shown,) = build("auto", tokenizer(LLAMA_3), conversations=True).render(row)
    assert [shown.text[begin:end] for begin, end in shown.learned] == ["zwölf<|eot_id|>"]


def test_a_template_that_ends_no_turn_is_unrolled_for_the_end_token() -> None:
    bare = GEMMA.replace("<end_of_turn>\\n", "\\n")
    assert "end_of_turn" not in bare
    one = "<bos><start_of_turn>user\n1?\n<start_of_turn>model\n"
    fast = tokenizer(GEMMA)
    fast.chat_template = bare
    rows = build("auto", fast, conversations=True).render(conversation(FOUR))
    assert [row.text for row in rows] == [
        one + "one<eos>",
        one + "one\n<start_of_turn>user\n2?\n<start_of_turn>model\nzwölf<eos>",
    ]


def test_an_end_of_the_whole_text_is_no_end_of_a_turn() -> None:
    # As Phi 3 does: each turn ends with its token, and the text with another one.
    ended = GEMMA + "{%- if not add_generation_prompt %}{{- eos_token }}{% endif %}"
    assert learned(ended, FOUR) == learned(GEMMA, FOUR)
    # As gpt-oss does: the last turn ends with a token of its own.
    other = GEMMA.replace(
        "'<end_of_turn>\\n' }}", "(eos_token if loop.last and loop.index0 % 2 else '<end_of_turn>') }}"
    )
    first, last = learned(other, FOUR)
    assert first.endswith("model\n«one<eos>»")
    assert last.endswith(
        "model\none<end_of_turn><start_of_turn>user\n2?<end_of_turn><start_of_turn>model\n«zwölf<eos>»"
    )


def test_a_prompt_that_opens_a_thought() -> None:
    head, asked = QWEN_3.rsplit("assistant\\n' }}", 1)
    opens = head + "assistant\\n<think>\\n' }}" + asked
    assert learned(opens, THOUGHT)[0].endswith("<|im_start|>assistant\n<think>\n«uno\n</think>\n\none<|im_end|>»")
    never = opens.replace("'<think>\\n' + (thought or '')", "'<thought>' + (thought or '')")
    with pytest.raises(InputError, match=r"write `alpaca`, or `template_arguments: {enable_thinking: false}`"):
        learned(never, FOUR)


def test_tools_reach_the_template() -> None:
    rows = build("auto", tokenizer(LLAMA_3), conversations=True).render(conversation(TWO, tools=json.dumps(TOOLS)))
    assert f"system<|end_header_id|>\n\nTools: {json.dumps(TOOLS)}<|eot_id|>" in rows[0].text


def test_arguments_that_no_template_reads() -> None:
    with pytest.raises(InputError) as raised:
        build("auto", tokenizer(QWEN_3), arguments={"enable_thinkin": False, "tokenize": True})
    assert [str(fault) for fault in raised.value.faults] == [
        "data.template_arguments.enable_thinkin: the model's chat template reads no such argument: remove it. "
        "Did you mean `enable_thinking`?",
        "data.template_arguments.tokenize: is set by meshtune: remove it",
    ]
    plain = tokenizer(GEMMA)
    plain.chat_template = None
    with pytest.raises(InputError, match=r"data.template_arguments: only a chat template reads arguments"):
        build("auto", plain, arguments={"enable_thinking": False})
    with pytest.raises(InputError, match=r"conversations need a chat template: .* name a chat \(instruct\) model"):
        build("auto", plain, conversations=True)
    with pytest.raises(InputError, match="`alpaca` cannot show conversations: write `auto` or `chat`"):
        build("alpaca", tokenizer(GEMMA), conversations=True)


@pytest.mark.parametrize("family", ["llama3", "qwen2_5", "qwen3", "gemma"])
def test_the_masks_of_trl(family: str) -> None:
    """On the real templates, which TRL holds beside copies of its own with marks.

    Its marks also hold the line ends around a turn, which nobody generates; where a template drops thoughts, its own
    copy keeps them, so that rows that are unrolled here are not compared.
    """
    trl = pytest.importorskip("trl.chat_template_utils", reason="trl is not installed; it is no dependency")
    folder = importlib.resources.files("trl").joinpath("chat_templates")
    real = folder.joinpath(f"{family}.jinja").read_text(encoding="utf-8")
    fast = tokenizer(real)
    marks = trl.get_training_chat_template(fast)
    for turns in (TWO, FOUR, SIX, CALLED) if family != "gemma" else (TWO, FOUR):
        rows = learned(real, turns)
        assert learned(marks, turns) == rows or family == "qwen3"
        if len(rows) > 1:
            assert family == "qwen3"
            continue
        said = [dict(turn) for turn in conversation(turns).turns]
        found = fast.apply_chat_template(
            said, chat_template=marks, return_dict=True, tokenize=True, return_assistant_tokens_mask=True
        )
        ids, mask = np.array(found["input_ids"]), np.array(found["assistant_masks"])
        ours = rows[0].replace("«", "").replace("»", "")
        assert fast.decode(ids).removesuffix("\n") == ours
        borders = np.flatnonzero(np.diff(mask, prepend=0, append=0)).reshape(-1, 2)
        theirs = [fast.decode(ids[begin:end]).strip("\n") for begin, end in borders]
        assert theirs == [part.partition("»")[0].strip("\n") for part in rows[0].split("«")[1:]]
