"""The page of the paper's claims: its figures, recomputed, and that it says what the code says now."""

import pytest

from benchmarks import paper_claims, suspicions


def test_the_preference_of_figure_3_is_no_more_than_chance() -> None:
    found = paper_claims.preference()
    assert found["p"] == pytest.approx(0.39, abs=0.005)
    assert found["low"] < 0 < found["high"]
    assert found["needed"] == 168
    assert found["power"] == pytest.approx(0.1, abs=0.02)


def test_the_gap_of_the_optimizers() -> None:
    """In MMLU under one standard error of a score; in HumanEval beyond the spread of models, within one error."""
    mmlu, code = paper_claims.gap("mmlu"), paper_claims.gap("humaneval")
    assert 0 < mmlu["gap"] < mmlu["error"] == pytest.approx(0.42, abs=0.005)
    assert (mmlu["t"], code["t"]) == pytest.approx((1.2, 3.05), abs=0.05)
    assert mmlu["low"] < 0 < code["low"]
    assert code["p"] == pytest.approx(0.0082, abs=1e-4)
    assert code["gap"] < code["error"] == pytest.approx(2.9, abs=0.05)


def test_tuned_against_default() -> None:
    assert paper_claims.over("mmlu", "default")["low"] > 0 > paper_claims.over("humaneval", "default")["low"]


def test_best_against_worst() -> None:
    nomad, tpe = paper_claims.tables()
    assert paper_claims.best_and_worst(tpe, "bbh") == pytest.approx(0.0003, abs=5e-5)
    assert paper_claims.best_and_worst(nomad, "drop") == pytest.approx(0.021, abs=5e-4)


def test_the_page_says_what_the_code_says() -> None:
    page = paper_claims.PAGE.read_text(encoding="utf-8")
    assert paper_claims.filled(page) == page, "run python -m benchmarks.paper_claims"


def test_means_of_batch_means() -> None:
    losses, labels = [2.0, 8.0, 3.0], [1, 4, 3]
    assert suspicions.by_tokens(losses, labels) == 13 / 8
    assert suspicions.by_batches(losses, labels, 3) == 13 / 8
    assert suspicions.by_batches(losses, labels, 2) == pytest.approx((2 * 10 / 5 + 1) / 3)
    assert suspicions.by_batches(losses, labels, 1) == pytest.approx((2 + 2 + 1) / 3)
