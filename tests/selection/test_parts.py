"""Items, resamples, rules, sets and correlations: limiting cases and golden values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from meshtune.errors import InputError
from meshtune.selection.comparisons import gain, guard
from meshtune.selection.decide import CandidateInfo, decide
from meshtune.selection.measured import Array, Measured, item_weights, of_answers, of_scores, strata
from meshtune.selection.ranks import correlation, rank_correlation
from meshtune.selection.resampling import chance_best, confidence_set, items_to_separate, least_error, resample
from meshtune.selection.rules import Rule, merits, ranks, winners
from meshtune.space.pareto import pareto

SCORES = arrays(float, (5, 3), elements=st.integers(0, 6).map(float))


def test_items_and_groups() -> None:
    answers = {"a": {"x/1": 1.0, "x/2": 0.0, "y/1": 1.0}, "b": {"x/1": 0.0, "x/2": 0.0, "y/1": 0.5}}
    groups = {item: item[0] for item in answers["a"]}
    assert of_answers("m", "M", answers).scores == pytest.approx([200 / 3, 50 / 3])
    assert of_answers("m", "M", answers, groups=groups).scores == pytest.approx([75, 25])


def test_missing_items_are_refused_or_left_out() -> None:
    answers = {"a": {"1": 1.0, "2": 0.0}, "b": {"1": 0.0, "3": 0.0}}
    with pytest.raises(InputError) as refused:
        of_answers("m", "M", answers)
    assert [str(fault).split(":")[1].strip() for fault in refused.value.faults] == [
        "a has no answer to 1 of the 3 items, such as 3",
        "b has no answer to 1 of the 3 items, such as 2",
    ]
    assert of_answers("m", "M", answers, common=True).items == 1
    with pytest.raises(InputError, match="no item that all"):
        of_answers("m", "M", {"a": {"1": 1.0}, "b": {"2": 1.0}}, common=True)


def test_resamples_are_paired_and_as_wide_as_they_should_be() -> None:
    chance = np.random.default_rng(0)
    easy = chance.normal(size=400)
    answers = {n: {str(i): float(e) for i, e in enumerate(easy + chance.normal(size=400) > 0)} for n in "ab"}
    measure = of_answers("m", "M", answers)
    drawn = resample(Measured(("a", "b"), (measure,)), 4000)[:, :, 0]
    assert drawn.mean(axis=0) == pytest.approx(measure.scores, abs=0.2)
    assert drawn.std(axis=0) == pytest.approx(measure.errors, rel=0.05)
    assert measure.answers is not None
    paired = (measure.answers[0] - measure.answers[1]).std() / 20
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(paired, rel=0.05)
    alone = Measured(("a", "b"), (of_scores("m", "M", [40.0, 60.0], [0, 0], 400),))
    unpaired = resample(alone, 4000)[:, :, 0]
    assert unpaired.std(axis=0) == pytest.approx([2.449, 2.449], rel=0.05)
    assert abs(float(np.asarray(np.corrcoef(unpaired.T))[0, 1])) < 0.05
    assert np.array_equal(resample(alone, 50, 7), resample(alone, 50, 7))


def test_agreement_on_a_few_items_is_not_certainty() -> None:
    assert least_error(of_scores("m", "M", [50.0], [1.0], 98)) == pytest.approx(2**0.5)
    assert least_error(of_scores("m", "M", [50.0], [1.0], None)) == 0


def test_groups_of_one_item_are_taken_together() -> None:
    assert strata(np.array([0, 1, 1, 2, 3, 3])).tolist() == [0, 1, 1, 0, 2, 2]
    assert strata(np.array([0, 1, 1, 1, 2, 2])).tolist() == [0, 1, 1, 1, 0, 0]  # the smallest other joins a lone one
    assert strata(np.array([0, 0, 1, 1])).tolist() == [0, 0, 1, 1]
    assert strata(np.array([0])).tolist() == [0]


@pytest.mark.parametrize("sizes", [[1] * 14 + [2] * 13, [1] + [2] * 10, [1] + [3] * 8, [2, 3, 40], [24]])
def test_resamples_of_small_groups_vary_as_other_items_would(sizes: list[int]) -> None:
    """Items are alike, so that the variance of a mean of group means is that of an item times the sum of w squared."""
    chance = np.random.default_rng(0)
    groups = {f"{n}/{i}": str(n) for n, size in enumerate(sizes) for i in range(size)}
    weights = item_weights(np.repeat(np.arange(len(sizes)), sizes))
    true = 50 * float((weights**2).sum()) ** 0.5
    drawn, told = [], []
    for seed in range(150):
        answers = {"a": {item: float(chance.random() < 0.5) for item in groups}}
        measure = of_answers("m", "M", answers, groups=groups)
        drawn.append(resample(Measured(("a",), (measure,)), 200, seed).var())
        told.append(float(measure.errors[0]) ** 2)
    assert np.mean(drawn) ** 0.5 == pytest.approx(true, rel=0.12)
    assert np.mean(told) ** 0.5 == pytest.approx(true, rel=0.12)


def test_resamples_stay_scores_and_equal_ones_equal() -> None:
    answers = {"a": {"x/1": 1.0, "x/2": 1.0, "y/1": 1.0, "z/1": 1.0, "z/2": 0.0}}
    groups = {item: item[0] for item in answers["a"]}
    measure = of_answers("m", "M", {**answers, "b": answers["a"]}, groups=groups)
    drawn = resample(Measured(("a", "b"), (measure,)), 300)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])
    assert 0 <= drawn.min() < drawn.max() <= 100


def test_bounds_of_candidates_that_agree_are_those_of_no_event_in_so_many_items() -> None:
    answers = {str(n): float(n % 2) for n in range(24)}
    names = ("a", "base")
    measured = Measured(names, (of_answers("m", "M", dict.fromkeys(names, answers)),))
    (found,) = guard(measured, resample(measured, 4000), ["a"], ["base"]).comparisons
    rule_of_three = 100 * (1 - 0.05 ** (1 / 24))  # Clopper and Pearson: 11.7 points
    assert (found.low, found.high) == pytest.approx((-rule_of_three, rule_of_three), rel=0.02)
    (over,) = decide(measured, {"a": CandidateInfo(1), "base": CandidateInfo()}, references=["base"]).gains
    two_sided = 100 * (1 - 0.025 ** (1 / 24))
    assert (over.low, over.high) == pytest.approx((-two_sided, two_sided), rel=0.03)
    several = Measured((*"abcdef", "base"), (of_answers("m", "M", dict.fromkeys([*"abcdef", "base"], answers)),))
    wider = guard(several, resample(several, 4000), "abcdef", ["base"]).comparisons[0]
    assert wider.low < 1.2 * found.low  # all of them at once


@given(SCORES)
@settings(deadline=None)
def test_ranks_are_those_of_scipy(scores: Array) -> None:
    expected = stats.rankdata(-scores, axis=0)
    assert np.array_equal(ranks(scores[None])[0], expected)
    assert merits(Rule(), scores, ["a", "b", "c"]) == pytest.approx(-expected.mean(axis=1))


@given(SCORES, st.sampled_from(["mean_rank", "ideal_point", "weighted_sum"]))
@settings(deadline=None)
def test_what_a_rule_chooses_is_pareto_optimal_unless_tied(scores: Array, name: str) -> None:
    found = winners(merits(Rule(name), scores, ["a", "b", "c"]))  # type: ignore[arg-type]
    assert (found & pareto(scores)).any()


@given(SCORES)
@settings(max_examples=30, deadline=None)
def test_many_tables_at_once_are_as_one_by_one(scores: Array) -> None:
    many = np.stack([scores, scores[::-1]])
    for rule in (Rule(), Rule("ideal_point"), Rule("lexicographic"), Rule("weighted_sum", {"a": 3})):
        each = [merits(rule, one, ["a", "b", "c"]) for one in many]
        assert merits(rule, many, ["a", "b", "c"]) == pytest.approx(np.stack(each))


def test_lexicographic_with_tolerance() -> None:
    scores = np.array([[50.0, 10], [49.5, 20], [48, 30]])
    first = merits(Rule("lexicographic", tolerance=1), scores, ["a", "b"])
    assert winners(first).tolist() == [False, True, False]
    other = merits(Rule("lexicographic", tolerance=0, order=("b",)), scores, ["a", "b"])
    assert winners(other).tolist() == [False, False, True]
    loss = merits(Rule("validation_loss"), scores, ["a", "b"], np.array([2.0, 3.0, 1.0]))
    assert winners(loss).tolist() == [False, False, True]


def test_sets_of_limiting_cases() -> None:
    alike = np.zeros((100, 3))
    assert confidence_set(alike, 0).all()
    assert chance_best(alike) == pytest.approx([1 / 3] * 3)
    apart = np.tile([2.0, 1.0, 0.0], (100, 1))
    assert confidence_set(apart, 0).tolist() == [True, False, False]
    assert confidence_set(np.zeros((10, 1)), 0).tolist() == [True]


def test_items_to_separate() -> None:
    assert items_to_separate(1.0, 0.1, 100) == 0
    assert items_to_separate(1.0, 1.0, 100) == 685  # (1.96 + 0.84) squared times 100, less 100
    assert items_to_separate(0.0, 1.0, 100) is None
    assert items_to_separate(0.0, 0.0, 100) is None
    assert items_to_separate(0.01, 1.0, 100) is None
    half = 1 / (1.959964 + 0.841621) / 2**0.5
    assert items_to_separate(1.0, 1.0, 100, lasting=half) == 1470  # half of the room is left: twice as many in all
    assert items_to_separate(1.0, 1e-9, 100, lasting=2**0.5 * half) is None  # seeds alone are as wide


def test_what_is_alone_was_not_chosen() -> None:
    drawn = np.random.default_rng(0).normal(size=(500, 2))
    found = gain("base", np.array([5.0]), drawn[:, :1] + 5, 0, 2.0, drawn[:, 1] + 2)
    assert (found.raw, found.corrected) == pytest.approx((3.0, 3.0))
    assert found.low == pytest.approx(3 - 1.96 * 2**0.5, abs=0.3)


def test_correlations() -> None:
    assert correlation("m", [1, 2, 3], [3, 2, 1]).value == -1
    assert correlation("m", [1, 2], [2, 1]).value is None
    assert correlation("m", [1, 2, 3], [1, 1, 1]).value is None
    found = correlation("m", list(range(20)), [n + (3 * n) % 7 for n in range(20)])
    assert found.low is not None
    assert found.high is not None
    assert found.value is not None
    assert found.low < found.value < found.high < 1
    assert not found.trusted
    assert correlation("m", list(range(20)), [-n for n in range(20)]).trusted


def test_a_perfect_order_of_a_few_is_no_certainty() -> None:
    for scores in ([9, 8, 7, 6, 5], [5, 6, 7, 8, 9]):
        found, same = correlation("m", [1, 2, 3, 4, 5], scores), rank_correlation([1, 2, 3, 4, 5], scores)
        assert (found.value, found.low, found.high) == (same.rho, same.low, same.high)
    whole = correlation("m", [1, 2, 3, 4, 5], [9, 8, 7, 6, 5])
    assert (whole.low, whole.high) == pytest.approx((-1.0, -0.16), abs=0.01)
