"""What the paper's evaluations and scores cost, by formula: golden bounds, and what the page says of it."""

import pytest

from benchmarks import paper_cost


@pytest.mark.slow
def test_an_evaluation_without_a_download() -> None:
    """Without packs about half of the authors' logs (see the decision 2026-12-02-paper-cost); and the page says so."""
    found = paper_cost.hours()
    padded = found["with the transformers trainer, which pads rows"]
    assert 0.4 * paper_cost.LOGGED < padded < paper_cost.LOGGED
    assert found["in packs"] <= found["one at a time"] < padded
    page = paper_cost.PAGE.read_text(encoding="utf-8")
    assert paper_cost.filled(page) == page, "run python -m benchmarks.paper_cost"


def test_scores_of_a_candidate() -> None:
    """Under the authors' times, by 2.5 at most: decoding is bound by launches, a long prompt by products."""
    for name, found in paper_cost.minutes().items():
        low, high = paper_cost.SCORED[name][3]
        assert low / 2.5 <= found <= high
    assert paper_cost.scoring(1, 2) == pytest.approx(2 * paper_cost.LAYERS * 50 * 8e-6)
    assert paper_cost.scoring(2000, 1) > 2 * paper_cost.scoring(500, 1)
