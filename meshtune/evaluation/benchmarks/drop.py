"""DROP (Dua et al. 2019, arXiv:1903.00161): questions on passages, 3 shots drawn from the set itself.

The set is that of Instruct-Eval's protocol: items of the validation file whose annotated spans are all the same; 3 of
them, drawn with seed 0, are the shots, and items that share a passage with a shot are left out. Read from the official
JSON file (passages with `qa_pairs`) or from rows of the Hugging Face data set (`passage`, `question`, `answers_spans`).
"""

from __future__ import annotations

import functools
import random
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshtune.data.sources import hub_rows
from meshtune.errors import Fault
from meshtune.evaluation.benchmarks import files
from meshtune.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    JudgedAnswer,
    Reader,
    Shots,
    begins,
    begins_decided,
)

SHOTS = 3
HUB = "ucinlp/drop"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)
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


def find(folder: Path, named: bool) -> Reader | None:
    """See `Benchmark`."""
    if found := files.first(folder, "drop*dev*.json", "drop*.json"):
        return functools.partial(read_official, found)
    found = files.first(folder, "drop*.jsonl", "drop*.jsonl.gz", *(files.of_split("validation") if named else ()))
    return None if found is None else lambda: from_rows(files.read_rows(found), found)


def of_hub() -> Benchmark:
    """The benchmark of the Hugging Face hub. Raises InputError."""
    return from_rows(hub_rows(HUB, None, "validation"), HUB)


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
    passages = {shot.passage for shot in shots}
    scored = [question for question in agreed if question.passage not in passages]
    if not scored:
        files.refuse([Fault("every question shares its passage with a shot: none is left to score", place)])
    items = [Item(q.id, "", _block(q), f" {_right(q)}", truth={"target": _right(q)}) for q in scored]
    shown = tuple(f"{_block(shot)} {_right(shot)}\n\n" for shot in shots)
    return replace(BENCHMARK, all_items=tuple(items), shots={"": Shots(blocks=shown)})


def judge(pairs: Sequence[tuple[Item, str]]) -> list[JudgedAnswer]:
    """Right where the answer begins with the span; its F1 is that of its first line."""
    return [
        JudgedAnswer(begins(answer, item.truth["target"]), {"F1": f1(first_line(answer), item.truth["target"])})
        for item, answer in pairs
    ]


def decided(item: Item, answer: str) -> bool:
    """Whether neither score changes any more: the verdict is known, and the first line has ended."""
    return "\n" in answer.lstrip() and begins_decided(answer, item.truth["target"])


def _all_spans(pair: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What all annotators of a question answered; None where there is something else than answers.

    As the Hugging Face data set has it: those who validated the question, and its author only where nobody was to; no
    answer where one is of two kinds.
    """
    given = pair.get("validated_answers")
    answers = [pair.get("answer")] if given is None else given
    if not isinstance(answers, list):
        return None
    found = [_kinds(answer) for answer in answers]
    if None in found:
        return None
    if any(len(kinds) > 1 for kinds in found if kinds):
        return ()
    return tuple(text for kinds in found for texts in kinds or () for text in texts)


def _kinds(answer: Any) -> list[list[str]] | None:
    """What an annotator answered: texts of a number, spans and a date, of each that is there; None where it is odd."""
    date = answer.get("date") or {} if isinstance(answer, dict) else None
    if not isinstance(date, dict):
        return None
    number, spans = answer.get("number"), answer.get("spans")
    parts = _texts([date.get(part) or "" for part in ("day", "month", "year")])
    found = [_texts([number])] if number not in (None, "") else []
    found += [_texts(spans)] if spans else []
    found += [parts and [" ".join(parts).strip()]] if any(date.values()) else []
    return [texts for texts in found if texts is not None] if None not in found else None


def _texts(values: Any) -> list[str] | None:
    """A list of texts and whole numbers as texts; None where it is something else."""
    if not isinstance(values, list) or not all(isinstance(value, str) or type(value) is int for value in values):
        return None
    return [str(value) for value in values]


def _right(question: Question) -> str:
    return question.spans[0].strip()


def _block(question: Question) -> str:
    return f"{question.passage.strip()} {question.question.strip()}\nAnswer:"


def first_line(answer: str) -> str:
    """The first line of an answer that has text: a base model goes on with questions of its own."""
    return answer.strip().partition("\n")[0].strip()


def f1(answer: str, gold: str) -> float:
    """DROP's F1 of an answer against one right span: of bags of words, 0 where a number of the right one is missing.

    As in Dua et al. 2019 (arXiv:1903.00161), section 5, for answers of one span.
    """
    said, right = _bag(answer), _bag(gold)
    numbers = {word for word in right if _is_number(word)}
    if numbers and not numbers & said:
        return 0.0
    shared = len(said & right)
    if not said or not right:
        return float(said == right)
    precision, recall = shared / len(said), shared / len(right)
    return 0.0 if not shared else 2 * precision * recall / (precision + recall)


def _bag(text: str) -> set[str]:
    words = (_normal(word) for word in re.split(r"[ \-]", text))
    return {part for word in words for part in word.split()}  # other white space may stand inside one


def _normal(word: str) -> str:
    word = word.lower()
    if not _is_number(word):
        word = "".join(character for character in word if character not in _PUNCTUATION)
    if _is_number(word):
        word = str(float(word))
    return _ARTICLES.sub(" ", word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


BENCHMARK = Benchmark(
    name="drop",
    title="DROP",
    published=6_285,
    new_tokens=8,
    judge=judge,
    decided=decided,
    find=find,
    of_hub=of_hub,
    files="`drop_dataset_dev.json`, or `validation-*.parquet` or `*.jsonl`",
    others=("F1",),
)
