"""Answers of a model to some validation rows, scored by the user's metrics; `meshtune.data.answers` has the file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meshtune.config.sections import MetricConfig, ModelConfig
from meshtune.data import answers
from meshtune.data.store import Rows, original_rows
from meshtune.data.tokenizer import load_tokenizer
from meshtune.errors import together
from meshtune.objectives import metrics
from meshtune.trial import DataRef


@dataclass(frozen=True)
class Answering:
    """How validation rows are answered, and scored by the user's metrics.

    Attributes:
        model: what the base was loaded from. data: the study's rows. metrics: the user's.
        rows: so many are answered, evenly spaced: they stand source by source, and the first ones would be of one
            source alone. max_new_tokens: of an answer, at most.
    """

    model: ModelConfig
    data: DataRef
    metrics: Mapping[str, MetricConfig]
    rows: int
    max_new_tokens: int

    @property
    def made(self) -> str:
        """Changes with whatever decides answers or scores, the model apart."""
        return metrics.stamp(self.metrics, self.rows, self.max_new_tokens)

    def answer(self, base: Any, to: Path, tick: Callable[[], None]) -> dict[str, float]:
        """Let the model answer; writes the file `to`, returns each metric's mean. `tick` is called now and then.

        Raises:
            InputError: a metric cannot be loaded, fails, or gives no number.
            StorageError: the file cannot be written.
        """
        from meshtune.training.generate import generate  # loads PEFT, which who plans a study has no need of

        functions = metrics.load(self.metrics)
        validation = Rows.open(self.data, "validation")
        known = original_rows(Path(self.data.folder), "validation")
        numbers = spread(len(known), self.rows)
        asked = [known[number] for number in numbers]
        tokens = [validation[number][0] for number in numbers]
        ends = sorted({int(row[-1]) for row in tokens})  # the rows are learned with what ends their answers
        prompts = [row[: original.answer_start] for row, original in zip(tokens, asked, strict=True)]
        given = generate(base, prompts, ends=ends, max_new_tokens=self.max_new_tokens, tick=tick)

        text = self._text()
        lines, made = list[dict[str, Any]](), self.made
        for number, original, row, prompt, reply in zip(numbers, asked, tokens, prompts, given, strict=True):
            tick()
            said = text(reply)
            line = {"row": number, "prompt": text(prompt), "reference": text(row[len(prompt) :]), "answer": said}
            scores = {name: metrics.score(name, function, original.row, said) for name, function in functions.items()}
            lines.append({**line, "scores": scores, "made": made})
        answers.write(to, lines)
        return {name: statistics.fmean(line["scores"][name] for line in lines) for name in functions} if lines else {}

    def try_metrics(self) -> None:
        """Score the first row's own answer, so that a metric that misreads the rows fails now and not after the search.

        Raises InputError as `answer` does.
        """
        functions = metrics.load(self.metrics)
        first = original_rows(Path(self.data.folder), "validation")[0]
        reference = self._text()(Rows.open(self.data, "validation")[0][0][first.answer_start :])
        together(partial(metrics.score, name, function, first.row, reference) for name, function in functions.items())

    def _text(self) -> Callable[[Any], str]:
        tokenizer = load_tokenizer(self.model)
        return lambda part: str(tokenizer.decode(list(part), skip_special_tokens=True)).strip()


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers below `count`, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))}) if count else []
