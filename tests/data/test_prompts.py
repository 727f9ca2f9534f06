from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshtune.data.prompts import Prompts, build
from meshtune.data.rows import Row
from meshtune.data.tokens import Encoded, encode
from meshtune.errors import InputError
from tests.data.made import TEMPLATE, make_tokenizer, row


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("plain"), template=None)


def encoded(prompts: Prompts, *rows: Row) -> list[Encoded]:
    """Tokens of rows that are not unrolled."""
    return list(encode([prompts.render(row)[0] for row in rows], prompts.tokenizer, lambda message: None))


def parts(tokenizer: Any, style: Any, what: Row) -> tuple[str, str]:
    """The text without and with loss."""
    (found,) = encoded(build(style, tokenizer), what)
    assert found.tokens.dtype == np.int32
    assert found.trained.dtype == np.bool_
    return tokenizer.decode(found.tokens[~found.trained]), tokenizer.decode(found.tokens[found.trained])


def test_the_alpaca_template_without_and_with_input(plain: Any) -> None:
    assert parts(plain, "auto", row("Add.", "Three.")) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Response:\n",
        "Three.</s>",
    )
    assert parts(plain, "alpaca", row("Add.", "Three.", "1 {2}")) == (
        "<s>Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1 {2}\n\n### Response:\n",
        "Three.</s>",
    )


def test_a_chat_is_learned_through_the_end_of_its_turn(chat: Any) -> None:
    assert parts(chat, "auto", row("Add.", "Three.")) == ("<s>[user]\nAdd.[end]\n[assistant]\n", "Three.[end]")
    expected = ("<s>[user]\nAdd.\n\n1 2[end]\n[assistant]\n", "Three.[end]")
    assert parts(chat, "chat", row("Add.", " Three.\n", "1 2")) == expected  # this template trims, and so do its rows


def test_a_template_that_ends_no_turn_gets_the_end_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, TEMPLATE.replace("[end]\n", "\n"))
    assert parts(tokenizer, "chat", row("Add.", "Three."))[1] == "Three.</s>"


def test_text_that_a_template_puts_before_each_answer_is_learned(tmp_path: Path) -> None:
    thinking = TEMPLATE.replace("m.content", "('<think></think>' if m.role == 'assistant' else '') + m.content")
    assert parts(make_tokenizer(tmp_path, thinking), "chat", row("Add.", "3"))[1] == "<think></think>3[end]"


@pytest.mark.parametrize("style", ["auto", "chat", "alpaca"])
def test_verbatim_rows_are_never_wrapped(chat: Any, style: str) -> None:
    assert parts(chat, style, row("Q: 1 + 2?\nA:", " 3", verbatim=True)) == ("<s>Q: 1 + 2?\nA:", " 3</s>")
    assert parts(chat, style, row("<s>Q:", " 3", verbatim=True)) == ("<s>Q:", " 3</s>")


def test_the_prompt_has_the_tokens_that_the_model_is_asked_with(plain: Any) -> None:
    asked = [plain.bos_token_id, *plain("over\n", add_special_tokens=False)["input_ids"]]
    # The tokenizer knows "\n\n" as one token, so that the whole text's tokens swallow the border.
    assert plain("over\n\nthe", add_special_tokens=False)["input_ids"][: len(asked) - 1] != asked[1:]
    for response in ("the lazy dog", "\nthe lazy dog", "\n"):
        (found,) = encoded(build("auto", plain), row("over\n", response, verbatim=True))
        assert found.tokens[~found.trained].tolist() == asked
        assert plain.decode(found.tokens[found.trained]) == response + "</s>"


def test_labels_are_told_by_position_where_padding_is_the_end_token(plain: Any) -> None:
    assert plain.pad_token_id == plain.eos_token_id
    (found,) = encoded(build("auto", plain), row("a</s>b", "c", verbatim=True))
    assert found.tokens[-1] == plain.eos_token_id
    assert found.trained.tolist() == [False] * 4 + [True] * 2


def test_chat_without_a_template_is_refused(plain: Any) -> None:
    with pytest.raises(InputError, match=r"data.prompt: `chat` cannot be had: .* has no chat template: write `alpaca`"):
        build("chat", plain)


def test_a_template_that_rewrites_the_answer_is_refused(tmp_path: Path) -> None:
    for number, wrong in enumerate((TEMPLATE.replace("[assistant]", "[bot]"), TEMPLATE.replace("trim", "upper"))):
        tokenizer = make_tokenizer(tmp_path / str(number), wrong)
        with pytest.raises(InputError, match=r"does not go on from its prompt with the answer as it is"):
            build("auto", tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="names no end-of-sequence token"):
        build("auto", tokenizer)


def test_progress_is_reported(chat: Any) -> None:
    said: list[str] = []
    assert len(list(encode(build("auto", chat).render(row("a", "b")) * 5001, chat, said.append))) == 5001
    assert said == ["tokenized 5,000 of 5,001 rows", "tokenized 5,001 of 5,001 rows"]
