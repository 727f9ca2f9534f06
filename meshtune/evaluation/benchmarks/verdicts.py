"""How answers are judged that need no program to be run: by how they begin, and by DROP's F1.

An answer is text as the model gave it. `begins` is the rule of Instruct-Eval: right where the stripped answer begins
with the target. It is ambiguous where one target begins with another, as the targets of `dyck_languages` do.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from meshtune.evaluation.benchmarks.items import Item, Judged

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)
_UNFINISHED = "\ufffd"  # what a tokenizer shows for the first bytes of a character


def begins(answer: str, target: str) -> bool:
    """Whether the stripped answer begins with the target."""
    return answer.strip().startswith(target)


def begins_decided(answer: str, target: str) -> bool:
    """Whether `begins` stays what it is, whatever follows the answer."""
    text = answer.lstrip().rstrip(_UNFINISHED)
    if not target.startswith(text[: len(target)]):
        return True
    return len(text) >= len(target) and target == target.rstrip()


def judge_begins(pairs: Sequence[tuple[Item, str]]) -> list[Judged]:
    """Judge each answer by how it begins; the target is the item's `truth["target"]`."""
    return [Judged(begins(answer, item.truth["target"])) for item, answer in pairs]


def decided_begins(item: Item, answer: str) -> bool:
    """See `begins_decided`."""
    return begins_decided(answer, item.truth["target"])


def first_line(answer: str) -> str:
    """The first line of an answer that has text: a base model goes on with questions of its own."""
    return answer.strip().partition("\n")[0].strip()


def drop_f1(answer: str, gold: str) -> float:
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
