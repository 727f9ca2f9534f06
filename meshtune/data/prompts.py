"""From rows to tokens, and which of them are learned: the response and the token that ends it.

Styles: `chat` is the model's own chat template with one user turn (instruction, blank line, context); `alpaca` is the
Stanford template; a verbatim row is used as it is in both. Guarantees: the prompt's tokens are those that the model
gets when it is asked, whatever the response is; tokens are told apart by position, never by value, so that a padding
token equal to the end token loses no label. Nothing is cut: what is too long is the caller's to drop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from meshtune.data.rows import Row
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
_MARK = "qzwx7031"
_CHUNK = 5000


@dataclass(frozen=True, eq=False)
class Encoded:
    """A row as tokens. `trained` is true for the tokens that the loss counts; both are of one length. `text` is all."""

    text: str
    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]


@dataclass(frozen=True)
class Prompts:
    """How rows become text for one model: the style, and what ends a response in a chat and elsewhere.

    Attributes:
        dropped_tail: characters of the chat template after the end of the turn: neither read nor learned.
        chat_end: what closes the assistant's turn where the template itself does not.
        end: the tokenizer's end-of-sequence token, after verbatim rows and the Alpaca template.
    """

    tokenizer: PreTrainedTokenizerBase
    style: Style
    end: str
    chat_end: str = ""
    dropped_tail: int = 0

    def render(self, row: Row) -> tuple[str, str]:
        """The text of the prompt, and of the response with its end."""
        if row.verbatim:
            return row.prompt, row.response + self.end
        if self.style == "alpaca":
            template = _ALPACA_INPUT if row.context.strip() else _ALPACA
            return template.format(prompt=row.prompt, context=row.context), row.response + self.end
        question = _question(row)
        prompt, whole = _chat(self.tokenizer, question), _chat(self.tokenizer, question, row.response)
        if not whole.startswith(prompt):
            what = f"the model's chat template rewrites the question of row {row.line}: write `alpaca`"
            raise InputError(Fault(what, key="data.prompt"))
        return prompt, whole[len(prompt) : len(whole) - self.dropped_tail] + self.chat_end


def build(style: Literal["auto", "chat", "alpaca"], tokenizer: PreTrainedTokenizerBase) -> Prompts:
    """The prompts of a model. Raises InputError for `chat` where the tokenizer has no fitting template."""
    end = tokenizer.eos_token
    if not isinstance(end, str):
        raise InputError(Fault("the tokenizer names no end-of-sequence token (`eos_token`): set one", key="model"))
    if style == "alpaca" or (style == "auto" and not tokenizer.chat_template):
        return Prompts(tokenizer, "alpaca", end)
    if not tokenizer.chat_template:
        what = "the model's tokenizer has no chat template: write `alpaca`, or name a chat (instruct) model"
        raise InputError(Fault(f"`chat` cannot be had: {what}", key="data.prompt"))
    prompt, whole = _chat(tokenizer, _MARK), _chat(tokenizer, _MARK, _MARK * 2)
    tail = whole.rpartition(_MARK)[2]
    if not whole.startswith(prompt) or whole.count(_MARK) != 3:
        what = "the model's chat template does not go on from its prompt with the answer as it is: write `alpaca`"
        raise InputError(Fault(f"`chat` cannot be had: {what}", key="data.prompt"))
    turn_end = tail.rstrip()
    return Prompts(tokenizer, "chat", end, "" if turn_end else end, len(tail) - len(turn_end))


def _question(row: Row) -> str:
    return f"{row.prompt}\n\n{row.context}" if row.context.strip() else row.prompt


def mean_question(rows: Sequence[Row], prompts: Prompts) -> float:
    """Mean tokens of the rows' prompts without a template."""
    lengths = [len(ids) for ids in tokenize(prompts.tokenizer, [_question(row) for row in rows])]
    return float(np.mean(lengths))


def _chat(tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None) -> str:
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
    return str(text)


def encode(rows: Sequence[Row], prompts: Prompts, report: Callable[[str], None]) -> Iterator[Encoded]:
    """Tokens of each row, in order; tokenizes in batches and reports how far it is."""
    tokenizer = prompts.tokenizer
    lead = _lead(tokenizer)
    spelled = tokenizer.decode(lead)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        texts = [prompts.render(row) for row in chunk]
        asked = tokenize(tokenizer, [prompt for prompt, _ in texts])
        whole = tokenize(tokenizer, [prompt + answer for prompt, answer in texts])
        for row, (prompt, answer), head, tokens in zip(chunk, texts, asked, whole, strict=True):
            # A chat template brings its own first token, and so may a verbatim prompt.
            brought = (not row.verbatim and prompts.style == "chat") or (lead and prompt.startswith(spelled))
            first = [] if brought else lead
            # The whole text's tokens are right unless one spans the border; then each part has its own. (The parts'
            # alone would not do: some tokenizers begin every text with a space, and so would every response.)
            fits = tokens[: len(head)] == head
            tail = tokens[len(head) :] if fits else tokenize(tokenizer, [answer])[0]
            ids = np.array([*first, *head, *tail], dtype=np.int32)
            yield Encoded(prompt + answer, ids, np.arange(len(ids)) >= len(ids) - len(tail))
        report(f"tokenized {start + len(chunk):,} of {len(rows):,} rows")


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Each text's tokens, nothing added before or behind."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before a text (a Llama's <s>); what it may put behind is left out."""
    plain, full = tokenizer("a", add_special_tokens=False)["input_ids"], list(tokenizer("a")["input_ids"])
    size = len(plain)
    return next((full[:start] for start in range(len(full)) if full[start : start + size] == plain), [])
