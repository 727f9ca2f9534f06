"""The answers of a study's two models to questions, for `meshtune prefer create`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import InputError, need_training
from meshtune.export.chosen import ChosenPoint, choose, kept_adapter
from meshtune.plan.environment import versions
from meshtune.preference.questions import Answer, Question

UNTUNED = "untuned"


def answers_of(
    study: Path,
    words: Sequence[str],
    questions: Sequence[Question],
    *,
    folder: Path | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, dict[str, Answer]], dict[str, Any]]:
    """Answers by model name and question id, and how they were made. Raises InputError.

    Args:
        words: the models: `best`, `baseline`, `untuned` or a trial's number. temperature: 0 decodes greedily.
    """
    need_training()
    from meshtune.data.prompts import questions_as_tokens
    from meshtune.training.generate import Sampling, answer_all

    points = {word: None if word == UNTUNED else choose(study, word, folder=folder) for word in words}
    known = next((point for point in points.values() if point is not None), None)
    if known is None:
        raise InputError("--a and --b are both `untuned`: name at least one trained model, such as best")
    names = _names(points)
    adapters = {names[w]: None if point is None else kept_adapter(point) for w, point in points.items()}
    data = known.study.config.data
    if data is None:
        raise InputError(f"{study}: the study has no `data`, so that it is not known how its models are asked")
    prompts, ends, tokenizer = questions_as_tokens([question.text for question in questions], data, known.model)
    sampling = Sampling(temperature, top_p, seed) if temperature > 0 else None
    report(f"answering {len(questions)} questions with {' and '.join(adapters)}")
    found = {}
    how: dict[str, Any] = {"ends": ends, "max_new_tokens": max_new_tokens, "sampling": sampling}
    for name, given in answer_all(known.model, adapters, prompts, **how):
        found[name] = {
            question.id: _answer(question, tokens, tokenizer, max_new_tokens)
            for question, tokens in zip(questions, given, strict=True)
        }
        report(f"{name} has answered")
    decoding = {"temperature": temperature, "top_p": top_p, "seed": seed} if sampling else "greedy"
    made = {
        "study": known.study.name,
        "model": known.model.model_dump(mode="json"),
        "points": {names[word]: _described(point) for word, point in points.items()},
        "decoding": decoding,
        "max_new_tokens": max_new_tokens,
        "versions": versions(),
    }
    return found, made


def _answer(question: Question, tokens: Sequence[int], tokenizer: Any, limit: int) -> Answer:
    text = str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return Answer(question.id, text, "cut" if len(tokens) >= limit else "" if text else "empty")


def _names(points: Mapping[str, ChosenPoint | None]) -> dict[str, str]:
    trials = [UNTUNED if point is None else point.name for point in points.values()]
    if len(set(trials)) < len(trials) or len(points) < 2:
        what = f"--a and --b name the same model ({trials[0]})"
        raise InputError(f"{what}: nothing beat the baseline, or one of them is to be another trial")
    return {
        word: word
        if point is None or point.name == word
        else f"{word} ({point.name})"
        if not word.isdecimal()
        else point.name
        for word, point in points.items()
    }


def _described(point: ChosenPoint | None) -> dict[str, Any]:
    if point is None:
        return {}
    loss = point.outcome.loss if point.outcome is not None else None
    return {"trial": point.trial, "hyperparameters": dict(point.hyperparameters), "loss": loss, "seed": point.seed}
