"""Verdicts: the protocol's rules, and that nothing is called decided that could still change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation import drop, humaneval, verdicts
from meshtune.evaluation.items import Item

TEXT = st.text("AB(] \n.5-", max_size=8)


@given(TEXT.filter(str.strip), TEXT, TEXT)
def test_a_decided_verdict_stays(target: str, answer: str, more: str) -> None:
    if verdicts.begins_decided(answer, target):
        assert verdicts.begins(answer, target) == verdicts.begins(answer + more, target)


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
    assert verdicts.begins_decided(" B", "B")
    assert verdicts.begins_decided("\n\nX", "B")
    assert not verdicts.begins_decided(" ", "B")
    assert not verdicts.begins_decided("(", "(A)")
    assert not verdicts.begins_decided("caf\ufffd", "café")
    assert verdicts.begins(" (A) because", "(A)")
    assert verdicts.begins("] ] ]", "] ]")  # the ambiguity of the rule


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
    ],
)
def test_f1(answer: str, gold: str, score: float) -> None:
    assert verdicts.drop_f1(answer, gold) == pytest.approx(score)


def test_code_is_cleaned() -> None:
    assert humaneval.completion("\n\n   x = 1\n    return x\n\nprint(1)") == "    x = 1\n    return x"
