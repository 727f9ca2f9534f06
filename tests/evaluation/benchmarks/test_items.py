"""Verdicts: the protocol's rules, and that nothing is called decided that could still change."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation.benchmarks import drop, humaneval, items
from meshtune.evaluation.benchmarks.items import Item

TEXT = st.text("AB(] \n.5-", max_size=8)
ATOMS = "the a an The 12 12.0 1,200 3% -5 5 goal x-ray foo—the—bar a. 's ½ ٣ inf 1e3 the\tcat \u00a0 tab\tend $5.50 --"
SPAN = st.lists(st.sampled_from(ATOMS.split(" ")), max_size=4).flatmap(
    lambda atoms: st.sampled_from([" ", "-", "\t", "\n"]).map(lambda between: between.join(atoms))
)


@given(TEXT.filter(str.strip), TEXT, TEXT)
def test_a_decided_verdict_stays(target: str, answer: str, more: str) -> None:
    if items.begins_decided(answer, target):
        assert items.begins(answer, target) == items.begins(answer + more, target)


@given(TEXT.map(str.strip).filter(bool), TEXT, TEXT)
def test_decided_scores_of_drop_stay(target: str, answer: str, more: str) -> None:
    item = Item("a", "", "", f" {target}", truth={"target": target})
    if drop.decided(item, answer):
        assert drop.judge([(item, answer)]) == drop.judge([(item, answer + more)])


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=6))
def test_decided_code_stays(answer: str, more: str) -> None:
    item = Item("a", "", "", "")
    if humaneval.decided(item, answer):
        assert humaneval.completion(answer) == humaneval.completion(answer + more)


def test_a_verdict_is_decided_as_soon_as_it_can_be() -> None:
    assert items.begins_decided(" B", "B")
    assert items.begins_decided("\n\nX", "B")
    assert not items.begins_decided(" ", "B")
    assert not items.begins_decided("(", "(A)")
    assert not items.begins_decided("caf\ufffd", "café")
    assert items.begins(" (A) because", "(A)")
    assert items.begins("] ] ]", "] ]")  # the ambiguity of the rule


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("The Kansas City Chiefs.", "Kansas City", 0.8),
        ("3,000", "3000", 1.0),
        ("6 points", "6", 2 / 3),
        ("5 touchdowns", "6 touchdowns", 0.0),
        ("38-yard", "38 yard", 1.0),
        ("", "Kansas", 0.0),
        ("the", "a", 1.0),
        ("Denver", "Kansas", 0.0),
        ("tab\tend", "tab", 2 / 3),
        ("west—the—east", "west— —east", 1.0),
    ],
)
def test_f1(answer: str, gold: str, score: float) -> None:
    assert drop.f1(answer, gold) == pytest.approx(score)


def official_bag(text: str) -> set[str]:
    """As DROP's evaluation words it: tokens at spaces and dashes, normalized, joined, and split at white space."""
    joined = []
    for token in re.split(" |-", text.lower()):
        kept = token if number(token) else "".join(c for c in token if c not in string.punctuation)
        kept = str(float(kept)) if number(kept) else kept
        joined.append(" ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split()))
    return set(" ".join(joined).split())


def number(token: str) -> bool:
    try:
        return float(token) is not None
    except ValueError:
        return False


@given(SPAN, SPAN)
def test_f1_is_the_official_one(answer: str, gold: str) -> None:
    said, right = official_bag(answer), official_bag(gold)
    numbers = {word for word in right if number(word)}
    precision = len(said & right) / len(said) if said else 1.0
    recall = len(said & right) / len(right) if right else 1.0
    wrong = (numbers and not numbers & said) or precision + recall == 0
    score = 0.0 if wrong else 2 * precision * recall / (precision + recall)
    assert drop.f1(answer, gold) == pytest.approx(score)


def test_code_is_cleaned() -> None:
    assert humaneval.completion("\n\n   x = 1\n    return x\n\nprint(1)") == "    x = 1\n    return x"
