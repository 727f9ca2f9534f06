"""Bounds of paired differences: their level by enumeration, limiting cases, weights and steps."""

import numpy as np
import pytest
from scipy import stats

from meshtune.selection.comparisons import GuardVerdict, interval, lower_bound, margins
from meshtune.selection.decide import CandidateInfo, Settings, decide
from meshtune.selection.measured import Measured, of_answers

WIDTH = 1.6449


def level(items: int, mended: float, broken: float) -> float:
    """How likely the lower bound lies above the truth, by all counts that are likely at all."""
    most = [int(items * share + 8 * (items * share) ** 0.5 + 10) for share in (mended, broken)]
    c, b = np.meshgrid(*(np.arange(min(items, each) + 1) for each in most), indexing="ij")
    c, b = (each[c + b <= items] for each in (c, b))
    chance = stats.multinomial.pmf(np.stack([c, b, items - c - b], -1), items, [mended, broken, 1 - mended - broken])
    assert chance.sum() == pytest.approx(1, abs=1e-4)
    return float(chance[lower_bound(c, b, items, WIDTH) > mended - broken].sum())


@pytest.mark.parametrize("items", [24, 60, 100, 240, 271, 300, 1000])
def test_the_lower_bound_lies_above_the_truth_in_one_of_twenty_at_most(items: int) -> None:
    found = {mended: level(items, mended, mended + 0.01) for mended in (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.2)}
    assert found[0.0] <= 0.05  # exact where nothing is mended
    assert max(found.values()) <= 0.056
    assert level(items, 0.0, 0.03) <= 0.05


def test_limiting_cases() -> None:
    exact = stats.beta.ppf(0.95, 3, 98)
    assert lower_bound(0, 2, 100, WIDTH) == pytest.approx(-exact, abs=1e-5)
    assert lower_bound(0, 0, 100, WIDTH) == pytest.approx(-(1 - 0.05**0.01), abs=1e-5)
    many = lower_bound(3000, 3100, 100_000, WIDTH)  # there it is the normal one
    assert many == pytest.approx(-0.001 - WIDTH * (0.061 - 1e-6) ** 0.5 / 100_000**0.5, rel=0.01)
    counts = np.arange(10)
    assert (np.diff(lower_bound(5, counts, 100, WIDTH)) < 0).all()
    assert (np.diff(lower_bound(counts, 5, 100, WIDTH)) > 0).all()


def test_an_interval_without_discordant_items_has_width() -> None:
    low, high = interval(0, 0, 20)
    assert low == -high
    assert high == pytest.approx(1 - 0.025 ** (1 / 20))  # the share of which none among 20 has a chance of .025
    assert interval(5, 2, 20) == tuple(-end for end in reversed(interval(2, 5, 20)))
    assert interval(4, 0, 20)[0] > 0 > interval(3, 0, 20)[0]


def test_answers_in_steps_and_items_of_unequal_weight() -> None:
    chance = np.random.default_rng(0)
    answers = {name: {str(n): round(float(each), 2) for n, each in enumerate(chance.random(400))} for name in "ab"}
    measure = of_answers("m", "M", answers)
    assert measure.answers is not None
    error = (measure.answers[0] - measure.answers[1]).std() / 20
    assert margins(measure, [0], [1], WIDTH)[0] == pytest.approx(WIDTH * error, rel=0.03)
    groups = {str(n): "few" if n < 100 else "many" for n in range(400)}
    halves = of_answers("m", "M", answers, groups=groups)
    away = np.split(measure.answers[0] - measure.answers[1], [100])
    apart = float(np.hypot(away[0].std() / 20, away[1].std() / (2 * 300**0.5)))
    assert margins(halves, [0], [1], WIDTH)[0] == pytest.approx(WIDTH * apart, rel=0.05)
    (agree,) = margins(halves, [0], [0], WIDTH)
    assert agree == pytest.approx(100 * (1 - 0.05 ** (1 / 300)), rel=0.01)  # as many items as the weights are worth
    few = {"a": dict.fromkeys(map(str, range(60)), 1.0), "b": {str(n): 1 - 0.1 * (n == 0) for n in range(60)}}
    below, above = margins(of_answers("m", "M", few), [1], [0], WIDTH)[0]
    assert below > 100 * (1 - 0.05 ** (1 / 60)) - 1  # one small step does not say that there are no whole ones
    assert above > 0


def test_a_candidate_at_the_margin_that_mends_nothing_is_rarely_kept() -> None:
    """1 point worse, on 300 items, where an exact test keeps it in 4.9 %; one width of standard errors in far more."""
    facts, kept = {"a": CandidateInfo(1), "base": CandidateInfo()}, 0
    chance, runs = np.random.default_rng(0), 200
    for seed in range(runs):
        answers = {"a": chance.random(300) >= 0.01, "base": np.ones(300)}
        told = {name: {str(n): float(one) for n, one in enumerate(each)} for name, each in answers.items()}
        measured = Measured(("a", "base"), (of_answers("x", "X", told),))
        decision = decide(measured, facts, Settings(draws=200, seed=seed), references=["base"])
        kept += decision.candidates[0].verdict is GuardVerdict.KEPT
    assert kept <= stats.binom.ppf(0.99, runs, 0.05)


def test_the_interval_of_the_gain_covers_those_that_the_guard_dropped() -> None:
    """The same scores dropped them, so the interval is as wide as where they could still be chosen."""
    chance = np.random.default_rng(0)
    right = {**dict.fromkeys("ab", 0.6), **dict.fromkeys("cdefgh", 0.3), "base": 0.6}
    told = {name: {str(n): float(chance.random() < share) for n in range(400)} for name, share in right.items()}
    measured = Measured(tuple(told), (of_answers("x", "X", told),))
    facts = {name: CandidateInfo(n + 1) for n, name in enumerate("abcdefgh")} | {"base": CandidateInfo()}
    strict, loose = (
        decide(measured, facts, Settings(draws=2000, margin=margin), references=["base"]) for margin in (1.0, 90.0)
    )
    assert strict.chosen == loose.chosen
    assert [each.verdict for each in strict.candidates].count(GuardVerdict.DROPPED) == 6
    assert strict.gains == loose.gains
