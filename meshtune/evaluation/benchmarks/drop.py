"""DROP (Dua et al. 2019, arXiv:1903.00161): questions on passages, 3 shots drawn from the set itself.

The set is that of Instruct-Eval's protocol: items of the validation file whose annotated spans are all the same; 3 of
them, drawn with seed 0, are the shots, and items that share a passage with a shot are left out. Read from the official
JSON file (passages with `qa_pairs`) or from rows of the Hugging Face data set (`passage`, `question`, `answers_spans`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.errors import Fault
from meshtune.evaluation.benchmarks import files, verdicts
from meshtune.evaluation.benchmarks.items import PER_BYTE, Benchmark, Item, Judged, Shots

SHOTS = 3
PUBLISHED = 6_285
_ODD = (
    "needs an `answer` or a list `validated_answers`, each with a text `number`, a list of texts `spans` or a `date` "
    "of `day`, `month` and `year`"
)


@dataclass(frozen=True)
class Question:
    """A question with all spans that were given in answer."""

    id: str
    passage: str
    question: str
    spans: tuple[str, ...]


def read_official(path: Path) -> Benchmark:
    """The benchmark of an official file, `{passage id: {passage, qa_pairs}}`. Raises InputError."""
    value = files.read_json(path)
    found, faults = list[Question](), list[Fault]()
    if not isinstance(value, dict):
        faults.append(Fault("is no file of DROP: it must be an object of passages", path))
    for name, section in value.items() if isinstance(value, dict) else ():
        pairs = section.get("qa_pairs") if isinstance(section, dict) else None
        missing = files.texts(section, ("passage",), path, None)
        if missing or not isinstance(pairs, list):
            faults.append(Fault(f"the passage `{name}` needs a text `passage` and a list `qa_pairs`", path))
            continue
        for number, pair in enumerate(pairs):
            lacks = files.texts(pair, ("question", "query_id"), path, None)
            spans = None if lacks else _all_spans(pair)
            if spans is None:
                what = "needs texts `question` and `query_id`, and an `answer`" if lacks else _ODD
                faults.append(Fault(f"question {number} of the passage `{name}` {what}", path))
                continue
            found.append(Question(pair["query_id"], section["passage"], pair["question"], spans))
    files.refuse(faults)
    return benchmark(found, path)


def read_rows(path: Path) -> Benchmark:
    """The benchmark of a file of rows of the Hugging Face data set. Raises InputError."""
    return from_rows(files.read_rows(path), path)


def from_rows(rows: Iterable[tuple[int, Any]], place: Path | str) -> Benchmark:
    """The benchmark of rows of the Hugging Face data set, with their lines. Raises InputError."""
    found, faults = list[Question](), list[Fault]()
    for line, row in rows:
        missing = files.texts(row, ("passage", "question", "query_id"), place, line)
        answers = row.get("answers_spans")
        spans = _texts(answers.get("spans")) if isinstance(answers, dict) else None
        if missing or spans is None:
            faults += missing or [Fault("has no list of texts `answers_spans.spans`", place, line)]
            continue
        found.append(Question(row["query_id"], row["passage"], row["question"], tuple(spans)))
    files.refuse(faults)
    return benchmark(found, place)


def benchmark(questions: Sequence[Question], place: Path | str) -> Benchmark:
    """The benchmark of all questions of a file, in their order. Raises InputError where none is left to score."""
    agreed = [question for question in questions if len({span.strip() for span in question.spans}) == 1]
    if len(agreed) <= SHOTS:
        what = f"{len(agreed)} questions have one answer that all annotators agree on: {SHOTS} are the shots"
        files.refuse([Fault(f"{what}, so more are needed", place)])
    shots = random.Random(0).sample(agreed, SHOTS)
    shown = {shot.passage for shot in shots}
    asked = [question for question in agreed if question.passage not in shown]
    if not asked:
        files.refuse([Fault("every question shares its passage with a shot: none is left to score", place)])
    items = [Item(q.id, "", _block(q), f" {_right(q)}", truth={"target": _right(q)}) for q in asked]
    return Benchmark(
        name="drop",
        title="DROP",
        kind="",
        all_items=tuple(items),
        shots={"": Shots(blocks=tuple(f"{_block(shot)} {_right(shot)}\n\n" for shot in shots))},
        new_tokens=8,
        prompt_tokens=2048,
        average="micro",
        chance={"": 0.0},
        likelihood=PER_BYTE,
        published=PUBLISHED,
        judge=judge,
        decided=decided,
        others=("F1",),
    )


def judge(pairs: Sequence[tuple[Item, str]]) -> list[Judged]:
    """Right where the answer begins with the span; its F1 is that of its first line."""
    return [
        Judged(
            verdicts.begins(answer, item.truth["target"]),
            {"F1": verdicts.drop_f1(verdicts.first_line(answer), item.truth["target"])},
        )
        for item, answer in pairs
    ]


def decided(item: Item, answer: str) -> bool:
    """Whether neither score changes any more: the verdict is known, and the first line has ended."""
    return "\n" in answer.lstrip() and verdicts.begins_decided(answer, item.truth["target"])


def _all_spans(pair: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What all annotators of a question answered; None where there is something else than answers.

    As the Hugging Face data set has it: those who validated the question, and its author only where nobody was to; no
    answer where one is of two kinds.
    """
    given = pair.get("validated_answers")
    answers = [pair.get("answer")] if given is None else given
    if not isinstance(answers, list):
        return None
    found = [_spans(answer) for answer in answers]
    if None in found:
        return None
    if any(len(_kinds(answer)) > 1 for answer in answers):
        return ()
    return tuple(span for spans in found for span in spans or ())


def _kinds(answer: Mapping[str, Any]) -> list[str]:
    """Which of a number, spans and a date an answer has."""
    number, date = answer.get("number"), answer.get("date") or {}
    has = {"number": number not in (None, ""), "spans": bool(answer.get("spans")), "date": any(date.values())}
    return [kind for kind, there in has.items() if there]


def _spans(answer: Any) -> list[str] | None:
    """What an annotator answered: a number, spans, or a date; None where it is something else."""
    if not isinstance(answer, dict):
        return None
    number, spans, date = answer.get("number"), answer.get("spans"), answer.get("date") or {}
    if number not in (None, ""):
        return _texts([number])
    if spans:
        return _texts(spans)
    parts = _texts([date.get(part) or "" for part in ("day", "month", "year")]) if isinstance(date, dict) else None
    if parts is None:
        return None
    written = " ".join(parts).strip()
    return [written] if written else []


def _texts(values: Any) -> list[str] | None:
    """A list of texts and whole numbers as texts; None where it is something else."""
    if not isinstance(values, list) or not all(isinstance(value, str) or type(value) is int for value in values):
        return None
    return [str(value) for value in values]


def _right(question: Question) -> str:
    return question.spans[0].strip()


def _block(question: Question) -> str:
    return f"{question.passage.strip()} {question.question.strip()}\nAnswer:"
