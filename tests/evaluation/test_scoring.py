"""Scores of made verdicts: averages, standard errors, pass@k, signal, and how likelihoods are told."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.evaluation import scoring
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.store import Key, Line


def lines_of(benchmark: Benchmark, right: int, value: float = -1.0) -> dict[Key, Line]:
    """The first `right` items are right; every choice has the same likelihood."""
    return {
        (item.id, 0): {
            "item": item.id,
            "sample": 0,
            "shots": 3,
            "right": item.gold,
            "correct": number < right,
            "cut": number == 0,
            "scores": {"F1": 0.5},
            "log_likelihoods": dict.fromkeys(item.choices or (item.gold,), value),
        }
        for number, item in enumerate(benchmark.items)
    }


def test_micro_and_macro(benchmarks: Sequence[Benchmark]) -> None:
    mmlu, bbh, drop, _ = benchmarks
    result = scoring.score(mmlu, lines_of(mmlu, 3))
    assert (result.verdict.value, result.items, result.cut, result.chance) == (0.25, 12, 1, 0.25)
    assert result.verdict.error == pytest.approx(math.sqrt(0.25 * 0.75 / 12))
    assert not result.signal
    assert result.likelihood == scoring.Score(pytest.approx(0.25), 0)
    assert scoring.score(mmlu, lines_of(mmlu, 9)).signal
    uneven = replace(bbh, chosen=(0, 1, 2, 5))  # three items of one task, one of the other
    result = scoring.score(uneven, lines_of(uneven, 2))
    assert result.verdict.value == pytest.approx(1 / 3)
    assert result.verdict.error == pytest.approx(math.sqrt(1 / 3 * 2 / 3 * (1 / 3 + 1) / 4))
    assert result.groups == pytest.approx({"boolean_expressions": 2 / 3, "navigate": 0})
    assert result.likelihood is not None
    lengths = [len(item.gold) for item in uneven.items]
    assert result.likelihood.value == pytest.approx(-statistics.fmean(1 / length for length in lengths))
    assert scoring.score(drop, lines_of(drop, 0)).others["F1"].value == 0.5
    assert not scoring.score(drop, lines_of(drop, 0)).signal


def test_an_answer_without_a_likelihood(benchmarks: Sequence[Benchmark]) -> None:
    """One that did not fit is left out, as for every candidate; a diverged adapter's leaves no mean to compare."""
    mmlu = benchmarks[0]
    lines = lines_of(mmlu, 3)
    one = next(iter(lines.values()))
    one["log_likelihoods"] = None
    result = scoring.score(mmlu, lines)
    assert (result.verdict.value, result.likelihood, result.too_long) == (0.25, None, 0)
    one["shots"] = None
    result = scoring.score(mmlu, lines)
    assert (result.likelihood, result.too_long) == (scoring.Score(pytest.approx(0.25), 0), 1)


def test_the_papers_standard_errors() -> None:
    """In points, of one score: MMLU .42, BBH .59, DROP .58, HumanEval 2.9 (macro over groups of like size is micro)."""
    for share, items, points in ((0.4594, 14042, 0.42), (0.3251, 6430, 0.58), (0.2971, 6285, 0.58), (0.1707, 164, 2.9)):
        assert 100 * math.sqrt(share * (1 - share) / items) == pytest.approx(points, abs=0.05)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_all_draws(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations(range(samples), k))
    share = sum(any(place < right for place in draw) for draw in draws) / len(draws)
    assert scoring.pass_at(samples, right, k) == pytest.approx(share)
