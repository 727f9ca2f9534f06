"""Questions from outside the data, as tokens, asked as the study's rows ask: the same template, up to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from meshtune.config.sections import DataConfig, ModelConfig
from meshtune.data import prompts, tokenizer
from meshtune.data.rows import Row
from meshtune.data.tokens import encode

_ANSWER = "An answer."  # in place of the answer; it is cut off


def ask(questions: Sequence[str], data: DataConfig, model: ModelConfig) -> tuple[list[NDArray[Any]], list[int], Any]:
    """Tokens of each question, the tokens that end an answer, and the tokenizer. Raises InputError."""
    loaded = tokenizer.load_tokenizer(model)
    made = prompts.build(data.prompt, loaded, train_on="all", arguments=data.template_arguments)
    rendered = [made.render(Row(text, "", _ANSWER, False, n))[0] for n, text in enumerate(questions, start=1)]
    rows = list(encode(rendered, loaded, lambda message: None))
    return [row.tokens[: row.answer] for row in rows], sorted({int(row.tokens[-1]) for row in rows}), loaded
