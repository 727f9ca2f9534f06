"""From rows to text, and which of it is learned: the answers, each with the token that ends it.

Styles: `chat` is the model's own chat template (`chat`), for a row of question and answer with one user turn
(instruction, blank line, context); `alpaca` is the Stanford template. A verbatim row is used as it is in both;
conversations need `chat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from meshtune.config.sections import DataConfig, ModelConfig
from meshtune.data import tokenizer
from meshtune.data.chat import Chat, Refused, TrainOn
from meshtune.data.chat import build as build_chat
from meshtune.data.rows import Conversation, Row
from meshtune.data.tokens import Rendered, encode, tokenize
from meshtune.errors import Fault, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Style = Literal["chat", "alpaca"]

# The paper's authors headed the section of the input `#### Context:`, with four hashes; here it is Stanford's heading.
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Input:\n{context}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Prompts:
    """How rows become text for one model.

    Attributes:
        chat: the model's chat template; None in the style `alpaca`.
        train_on: what is learned. end: the tokenizer's end token, after verbatim rows and the Alpaca template.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: Chat | None
    train_on: TrainOn
    end: str

    @property
    def style(self) -> Style:
        """What rows of question and answer are wrapped in."""
        return "alpaca" if self.chat is None else "chat"

    def render(self, row: Row | Conversation) -> list[Rendered]:
        """The row's text; several where a conversation is unrolled. Raises `chat.Refused`."""
        if isinstance(row, Row):
            if row.verbatim:
                return [self._plain(row.prompt, row.response)]
            if self.chat is None:
                template = _ALPACA_INPUT if row.context.strip() else _ALPACA
                return [self._plain(template.format(prompt=row.prompt, context=row.context), row.response)]
            turns = ({"role": "user", "content": row.question}, {"role": "assistant", "content": row.response})
            row = Conversation(turns, None, frozenset(), row.line)
        if self.chat is None:
            raise Refused("a conversation needs a chat template")
        return self.chat.render(row)

    def _plain(self, prompt: str, response: str) -> Rendered:
        text, everything = prompt + response + self.end, self.train_on == "everything"
        learned = () if everything else ((len(prompt), len(text)),)
        return Rendered(text, learned, len(prompt), everything=everything, empty=not response.strip())


def build(
    style: Literal["auto", "chat", "alpaca"],
    tokenizer: PreTrainedTokenizerBase,
    *,
    conversations: bool = False,
    train_on: TrainOn = "all",
    arguments: Mapping[str, Any] | None = None,
) -> Prompts:
    """The prompts of a model. Raises InputError for `chat` where the tokenizer has no fitting template.

    Args:
        conversations: whether there are rows that only a chat template can show.
        train_on: the assistant turns that are learned. arguments: given to the chat template.
    """
    end = tokenizer.eos_token
    if not isinstance(end, str):
        raise InputError(Fault("the tokenizer names no end-of-sequence token (`eos_token`): set one", key="model"))
    if not tokenizer.chat_template and (conversations or style == "chat"):
        what = "conversations need a chat template" if conversations else "`chat` cannot be had"
        other = "" if conversations else "write `alpaca`, or "
        what += f": the model's tokenizer has no chat template: {other}name a chat (instruct) model"
        raise InputError(Fault(what, key="data.prompt"))
    if style == "alpaca" and conversations:
        raise InputError(Fault("`alpaca` cannot show conversations: write `auto` or `chat`", key="data.prompt"))
    if style == "alpaca" or not tokenizer.chat_template:
        if arguments:
            what = "only a chat template reads arguments, and rows are written with the Alpaca template: remove them"
            raise InputError(Fault(what, key="data.template_arguments"))
        return Prompts(tokenizer, None, train_on, end)
    return Prompts(tokenizer, build_chat(tokenizer, arguments or {}, train_on, end), train_on, end)


def mean_question(questions: Sequence[str], prompts: Prompts) -> float:
    """Mean tokens of questions without a template."""
    return float(np.mean([len(ids) for ids in tokenize(prompts.tokenizer, list(questions))]))


_ANSWER = "An answer."  # in place of the answer; it is cut off


def questions_as_tokens(
    questions: Sequence[str], data: DataConfig, model: ModelConfig
) -> tuple[list[NDArray[Any]], list[int], Any]:
    """Tokens of each question, the tokens that end an answer, and the tokenizer. Raises InputError."""
    loaded = tokenizer.load_tokenizer(model)
    maker = build(data.prompt, loaded, train_on="all", arguments=data.template_arguments)
    rendered = [maker.render(Row(text, "", _ANSWER, False, n))[0] for n, text in enumerate(questions, start=1)]
    rows = list(encode(rendered, loaded, lambda message: None))
    return [row.tokens[: row.answer] for row in rows], sorted({int(row.tokens[-1]) for row in rows}), loaded
