"""Files of questions and of models' answers, as JSON lines: Vicuna's, FastChat's and plain ones.

A question is `{"question_id": .., "text": ..}` (or `turns`, of which the first is asked; `question`, `instruction` and
`prompt` are read too), an answer `{"question_id": .., "text": .., "model_id": ..}` (or FastChat's `choices`). All
faults of a file come at once, with their lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from meshtune.errors import Fault, InputError

Flag = Literal["", "cut", "empty"]
_TEXTS = ("text", "question", "instruction", "prompt")
_SHOWN = 10
_Line = TypeVar("_Line")


@dataclass(frozen=True)
class Question:
    """One question; `id` is the file's own, or its line."""

    id: str
    text: str
    category: str = ""


@dataclass(frozen=True)
class Answer:
    """One model's answer to the question `question`; `flag` says that it was cut at the limit, or holds nothing."""

    question: str
    text: str
    flag: Flag = ""


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, in its order. Raises InputError: unreadable, not JSON, no text, an id that is twice."""
    questions = _read(path, _question)
    _check_once(path, [question.id for question in questions])
    return questions


def read_answers(path: Path) -> tuple[str, dict[str, Answer]]:
    """The model's name (`model_id`, or the file's name) and its answers by question. Raises InputError."""
    lines = _read(path, lambda number, line: (line.get("model_id"), _answer(number, line)))
    names = {str(name) for name, _ in lines if name is not None}
    if len(names) > 1:
        what = f"holds answers of {len(names)} models ({', '.join(sorted(names)[:4])}): one file a model is needed"
        raise InputError(Fault(what, path))
    _check_once(path, [answer.question for _, answer in lines])
    name = names.pop() if names else path.stem
    return name, {answer.question: answer for _, answer in lines}


def sample(questions: Sequence[Question], count: int | None, seed: int) -> list[Question]:
    """So many of the questions, drawn with a seed; all of them for None. Raises InputError where there are fewer."""
    if count is None or count == len(questions):
        return list(questions)
    if not 1 <= count <= len(questions):
        raise InputError(f"--sample {count}: there are {len(questions)} questions; give 1 to {len(questions)}")
    chosen = np.random.default_rng(seed).choice(len(questions), size=count, replace=False)
    return [questions[number] for number in sorted(chosen)]


def _read(path: Path, parse: Callable[[int, Mapping[str, Any]], _Line]) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Fault(f"cannot be read as a text file of JSON lines ({error})", path)) from error
    found, faults = list[_Line](), list[Fault]()
    for number, line in enumerate(text.split("\n"), start=1):  # only \n ends a line: answers may hold U+2028
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError('is no JSON object; give one such as {"question_id": 1, "text": ".."}')
            found.append(parse(number, value))
        except json.JSONDecodeError as error:
            faults.append(
                Fault(f"is no JSON ({error.msg} in column {error.colno}); give one object a line", path, number)
            )
        except (ValueError, RecursionError) as error:
            faults.append(Fault(str(error), path, number))
    if faults:
        more = [Fault(f"and {len(faults) - _SHOWN} more faults like these", path)] if len(faults) > _SHOWN else []
        raise InputError([*faults[:_SHOWN], *more])
    if not found:
        raise InputError(Fault("holds no line; give one JSON object a line", path))
    return found


def _question(number: int, line: Mapping[str, Any]) -> Question:
    text: Any = next((line[key] for key in _TEXTS if line.get(key) is not None), None)
    if text is None and isinstance(line.get("turns"), list) and line["turns"]:
        text = line["turns"][0]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"has no text: one of {', '.join(f'`{key}`' for key in (*_TEXTS, 'turns'))} is needed")
    return Question(str(line.get("question_id", number)), clean(text), str(line.get("category", "")))


def _answer(number: int, line: Mapping[str, Any]) -> Answer:
    if "question_id" not in line:
        raise ValueError("has no `question_id`, so that it is not known which question it answers")
    text = line.get("text", line.get("answer"))
    if text is None:
        try:
            text = line["choices"][0]["turns"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError("has no text: `text`, `answer` or `choices` is needed") from error
    if not isinstance(text, str):
        raise ValueError("`text` is no text")
    cut: Flag = "cut" if line.get("flag") == "cut" else ""
    return Answer(str(line["question_id"]), clean(text), cut if text.strip() else "empty")


def clean(text: str) -> str:
    """Without halves of surrogate pairs, which cannot be encoded, and without NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _check_once(path: Path, ids: Sequence[str]) -> None:
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise InputError(Fault(f"`question_id` {', '.join(twice[:5])} stands there more than once", path))
