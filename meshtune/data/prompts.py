"""From rows to tokens: the prompt template, and which tokens are trained.

The prompt and the response are tokenized apart, so that the prompt's tokens are those of generation. Trained are the
response and the token that ends it; never is a token masked because it is the pad token. `alpaca` is Stanford Alpaca's
template (the paper's authors headed the input `#### Context:`; the difference is noted, not followed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshtune.data.rows import Row
from meshtune.errors import Fault, InputError

WITH_CONTEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a"
    " response that appropriately completes the request.\n\n### Instruction:\n{prompt}\n\n### Input:\n{context}\n\n"
    "### Response:\n"
)
WITHOUT_CONTEXT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)
BATCH = 1000

Encoded = tuple[list[int], int]  # tokens of prompt and response, number of prompt tokens


def resolve(prompt: str, tokenizer: Any) -> str:
    """`auto` as `chat` or `alpaca`. Raises InputError where a chat template is asked for and there is none."""
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if prompt == "chat" and not has_template:
        message = "this model's tokenizer has no chat template: use `prompt: alpaca`, or the model's chat variant"
        raise InputError(Fault(message, key="data.prompt"))
    return prompt if prompt != "auto" else ("chat" if has_template else "alpaca")


def encode(rows: Sequence[Row], tokenizer: Any, prompt: str) -> Iterable[Encoded]:
    """Tokens of each row with the chosen template (`chat` or `alpaca`), in order."""
    begin = _begin(tokenizer)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        texts = [_texts(row, tokenizer, prompt) for row in batch]
        prompts = tokenizer([text for text, _ in texts], add_special_tokens=False)["input_ids"]
        responses = tokenizer([text for _, text in texts], add_special_tokens=False)["input_ids"]
        for row, before, after in zip(batch, prompts, responses, strict=True):
            head = before if prompt == "chat" and not row.verbatim else [*begin, *before]
            yield [*head, *_ended(after, tokenizer)], len(head)


def prompt_text(row: Row, tokenizer: Any, prompt: str) -> str:
    """What the model reads before it answers."""
    if row.verbatim:
        return row.prompt
    if prompt == "chat":
        text: str = tokenizer.apply_chat_template([_user(row)], tokenize=False, add_generation_prompt=True)
        return text
    template = WITH_CONTEXT if row.context else WITHOUT_CONTEXT
    return template.format(prompt=row.prompt, context=row.context)


def _texts(row: Row, tokenizer: Any, prompt: str) -> tuple[str, str]:
    before = prompt_text(row, tokenizer, prompt)
    if row.verbatim or prompt != "chat":
        return before, row.response
    turns = [_user(row), {"role": "assistant", "content": row.response}]
    whole: str = tokenizer.apply_chat_template(turns, tokenize=False)
    if not whole.startswith(before):
        raise InputError(
            Fault(
                "the model's chat template rewrites what comes before an answer: use `prompt: alpaca`",
                key="data.prompt",
            )
        )
    return before, whole[len(before) :]


def _user(row: Row) -> dict[str, str]:
    content = f"{row.prompt}\n\n{row.context}" if row.context else row.prompt
    return {"role": "user", "content": content}


def _begin(tokenizer: Any) -> list[int]:
    """The token that the tokenizer itself puts first, if it does."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _ended(tokens: list[int], tokenizer: Any) -> list[int]:
    """The response up to and with the token that ends it; what a template puts after that is cut off."""
    special = set(tokenizer.all_special_ids)
    for index in range(len(tokens) - 1, max(len(tokens) - 4, -1), -1):
        if tokens[index] in special:
            return tokens[: index + 1]
    if tokenizer.eos_token_id is None:
        raise InputError(Fault("the model's tokenizer has no end-of-sequence token", key="model"))
    return [*tokens, tokenizer.eos_token_id]
