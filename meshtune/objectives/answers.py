"""Answers of a model to some validation rows, scored by the user's metrics; `meshtune.data.answers` has the file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meshtune.config.sections import MetricConfig, ModelConfig
from meshtune.data import answers
from meshtune.data.store import Rows, original_rows
from meshtune.data.tokenizer import load_tokenizer
from meshtune.objectives import metrics
from meshtune.training.generate import generate
from meshtune.trial import DataRef


def answer(
    model: Any,
    config: ModelConfig,
    data: DataRef,
    scored: Mapping[str, MetricConfig],
    *,
    rows: int,
    max_new_tokens: int,
    to: Path,
    tick: Callable[[], None],
) -> dict[str, float]:
    """Let the model answer `rows` validation rows, evenly spaced; writes the file `to`, returns each metric's mean.

    Validation rows stand source by source: the first ones would be of one source alone.

    Raises:
        InputError: a metric cannot be loaded, fails, or gives no number.
        StorageError: the file cannot be written.
    """
    functions = metrics.load(scored)
    tokenizer = load_tokenizer(config)
    validation = Rows.open(data, "validation")
    known = original_rows(Path(data.folder), "validation")
    numbers = spread(len(known), rows)
    asked = [known[number] for number in numbers]
    tokens = [validation[number][0] for number in numbers]
    ends = sorted({int(row[-1]) for row in tokens})  # the rows are learned with what ends their answers
    prompts = [row[: original.answer_start] for row, original in zip(tokens, asked, strict=True)]
    given = generate(model, prompts, ends=ends, max_new_tokens=max_new_tokens, tick=tick)

    def text(part: Any) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=True)).strip()

    lines = list[dict[str, Any]]()
    made = metrics.stamp(scored, rows, max_new_tokens)
    for number, original, row, prompt, reply in zip(numbers, asked, tokens, prompts, given, strict=True):
        tick()
        said = text(reply)
        line = {"row": number, "prompt": text(prompt), "reference": text(row[len(prompt) :]), "answer": said}
        scores = {name: metrics.score(name, function, original.row, said) for name, function in functions.items()}
        lines.append({**line, "scores": scores, "made": made})
    answers.write(to, lines)
    return {name: statistics.fmean(line["scores"][name] for line in lines) for name in functions} if lines else {}


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers below `count`, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))}) if count else []
