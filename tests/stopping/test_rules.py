"""Rules of early stopping: what holds for all curves, toys with a known answer, and a synthetic study."""

import math
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtune.stopping.rules import Curve, Rule, Stopping

RUNGS = (0.15, 0.3, 0.5, 0.7)
RULES: tuple[Rule, ...] = get_args(Rule)

# Multiples of 2^-10 and numbers of that size: sums with the shifts below are exact.
losses = st.integers(1024, 10240).map(lambda number: number / 1024) | st.just(math.inf)
rules = st.sampled_from(RULES)


@st.composite
def curve(draw: st.DrawFn) -> Curve:
    reached = draw(st.integers(1, len(RUNGS) + 1))
    values = draw(st.lists(losses, min_size=reached, max_size=reached))
    return Curve(tuple(values[: len(RUNGS)]), values[-1] if reached > len(RUNGS) else None)


@st.composite
def falling(draw: st.DrawFn) -> Curve:
    """As trials are: each rung's loss tells something of the next."""
    start = draw(st.integers(2048, 3072))
    drops = draw(st.lists(st.integers(0, 64), min_size=len(RUNGS), max_size=len(RUNGS)))
    values = [start / 1024, *((start - total) / 1024 for total in np.cumsum(drops))]
    reached = draw(st.integers(1, len(RUNGS)))
    if draw(st.booleans()):
        return Curve(tuple(values[:-1]), values[-1])
    return Curve(tuple(values[:reached]))


groups = st.lists(falling() | curve(), max_size=24)


def high(threshold: float | None) -> float:
    """A threshold as a number: what stops nothing is infinite."""
    return math.inf if threshold is None else threshold


def best(curves: list[Curve]) -> float:
    """The lowest final loss."""
    return min((curve.final for curve in curves if curve.final is not None), default=math.inf)


@given(rules, groups, st.integers(0, 8))
def test_nothing_is_stopped_before_the_startup(rule: Rule, curves: list[Curve], startup: int) -> None:
    thresholds = Stopping(rule, RUNGS, startup=startup).thresholds(curves)
    assert len(thresholds) == len(RUNGS)
    if sum(curve.final is not None for curve in curves) < startup:
        assert set(thresholds) == {None}


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_known_of_no_trials(rule: Rule) -> None:
    stopping = Stopping(rule, RUNGS, startup=0)
    assert stopping.thresholds([]) == (None,) * 4
    assert stopping.predicted([], Curve((2.0,))) is None
    assert stopping.predicted_value([], Curve((2.0,))) is None
    assert stopping.promising([], 3) == []


@given(rules, groups, st.floats(0.01, 1.0))
def test_the_best_share_of_a_rung_always_goes_on(rule: Rule, curves: list[Curve], keep: float) -> None:
    thresholds = Stopping(rule, RUNGS, startup=0, keep=keep).thresholds(curves, noise=0.01)
    for rung, threshold in enumerate(thresholds):
        reached = [curve.rungs[rung] for curve in curves if len(curve.rungs) > rung]
        assert sum(loss <= high(threshold) for loss in reached) >= math.ceil(keep * len(reached))
        assert threshold is None or math.isfinite(threshold)


@given(st.sampled_from(("median", "asha")), groups, st.floats(0.01, 1.0))
def test_a_better_trial_never_raises_a_threshold(rule: Rule, curves: list[Curve], keep: float) -> None:
    stopping = Stopping(rule, RUNGS, startup=0, keep=keep)
    better = Curve((0.5, 0.5, 0.5, 0.5), 0.5)
    for before, after in zip(stopping.thresholds(curves), stopping.thresholds([*curves, better]), strict=True):
        assert high(after) <= high(before)


@given(rules, groups, st.randoms(use_true_random=False), falling())
def test_the_order_of_trials_does_not_matter(rule: Rule, curves: list[Curve], random: Random, stopped: Curve) -> None:
    shuffled = list(curves)
    random.shuffle(shuffled)
    stopping = Stopping(rule, RUNGS, startup=2)
    assert stopping.thresholds(curves) == stopping.thresholds(shuffled)
    assert stopping.predicted(curves, stopped) == stopping.predicted(shuffled, stopped)
    assert [curves[n] for n in stopping.promising(curves, 9)] == [shuffled[n] for n in stopping.promising(shuffled, 9)]


@given(rules, groups, st.integers(-1024, 8192).map(lambda number: number / 1024), st.sampled_from((0.25, 1.0, 8.0)))
def test_no_scale_is_assumed(rule: Rule, curves: list[Curve], shift: float, factor: float) -> None:
    moved = [
        Curve(
            tuple(factor * loss + shift for loss in curve.rungs),
            None if curve.final is None else factor * curve.final + shift,
        )
        for curve in curves
    ]
    stopping = Stopping(rule, RUNGS, startup=2)
    for noise in (2**-7, None):
        expected = [high(threshold) * factor + shift for threshold in stopping.thresholds(curves, noise)]
        found = stopping.thresholds(moved, None if noise is None else factor * noise)
        assert [high(threshold) for threshold in found] == pytest.approx(expected)
    assert stopping.promising(moved, 4, factor * 2**-7) == stopping.promising(curves, 4, 2**-7)


@given(rules, groups, falling() | curve())
def test_what_is_told_is_worse_than_the_best(rule: Rule, curves: list[Curve], stopped: Curve) -> None:
    told = Stopping(rule, RUNGS).predicted_value(curves, stopped)
    assert told is None or best(curves) < told < math.inf


@given(groups, st.integers(0, 5), st.floats(0.0, 0.1))
def test_promising_are_stopped_trials_by_their_chance(curves: list[Curve], limit: int, noise: float) -> None:
    stopping = Stopping("curve", RUNGS)
    found = stopping.promising(curves, limit, noise)
    assert len(found) == len(set(found)) <= limit
    assert all(curves[position].final is None for position in found)
    assert found == stopping.promising(curves, len(curves), noise)[:limit]
    assert set(stopping.promising(curves, len(curves))) <= set(stopping.promising(curves, len(curves), noise))


# Toys.


def straight(count: int, noise: float, seed: int = 0) -> list[Curve]:
    """Finished trials: each rung is .05 under the last, the end is 1.2 times the first less .5, with noise."""
    rng = np.random.default_rng(seed)
    starts = 2 + 0.1 * rng.exponential(size=count)
    steps = rng.normal(0, noise, (count, len(RUNGS)))
    return [
        Curve((a, *(a - 0.05 * n + sum(e[:n]) for n in range(1, 4))), 1.2 * (a - 0.15 + sum(e[:3])) - 0.5 + e[3])
        for a, e in zip(starts.tolist(), steps.tolist(), strict=True)
    ]


def test_median_and_asha_by_hand() -> None:
    curves = [Curve((loss,) * 4, loss) for loss in (1.0, 2.0, 3.0, 4.0)] + [Curve((5.0,)), Curve((6.0,))]
    assert Stopping("median", RUNGS, startup=4).thresholds(curves) == (3.5, 2.5, 2.5, 2.5)
    assert Stopping("asha", RUNGS, startup=4).thresholds(curves) == (2.0, 1.0, 1.0, 1.0)
    assert Stopping("asha", RUNGS, startup=4, keep=0.5).thresholds(curves) == (3.0, 2.0, 2.0, 2.0)
    assert Stopping("median", RUNGS, startup=4, keep=0.75).thresholds(curves) == (5.0, 3.0, 3.0, 3.0)
    assert Stopping("median", RUNGS, startup=4, keep=1).thresholds(curves) == (None,) * 4


def test_a_rung_with_mostly_infinite_losses_decides_nothing() -> None:
    curves = [Curve((math.inf,) * 4, 2.0)] * 6 + [Curve((2.0,) * 4, 2.0)]
    assert set(Stopping("median", RUNGS).thresholds(curves)) == {None}


def test_a_known_relation_is_recovered() -> None:
    curves = straight(60, 0.004)
    for reached in range(1, 5):
        prediction = Stopping("curve", RUNGS).predicted(curves, Curve((2.1, 2.05, 2.0, 1.95)[:reached]))
        assert prediction is not None
        assert prediction.mean == pytest.approx(1.2 * 1.95 - 0.5, abs=prediction.deviation)
        steps = 4 - reached
        assert prediction.deviation == pytest.approx(0.004 * math.sqrt(1.2**2 * steps + 1), rel=0.3)


def test_curve_stops_what_cannot_get_below_the_best() -> None:
    curves = straight(60, 0.004)
    thresholds = Stopping("curve", RUNGS, keep=0.01).thresholds(curves, noise=0.0)
    deviations = [0.004 * math.sqrt(1.2**2 * steps + 1) for steps in (3, 2, 1, 0)]
    expected = [(best(curves) + 0.5 + 1.2816 * d) / 1.2 + 0.15 - 0.05 * n for n, d in enumerate(deviations)]
    assert thresholds == pytest.approx(expected, abs=0.006)
    looser = Stopping("curve", RUNGS, keep=0.01).thresholds(curves, noise=0.012)
    assert [high(b) - high(a) for a, b in zip(thresholds, looser, strict=True)] == pytest.approx([0.01] * 4, rel=0.3)
    # Where the noise is not given, it is what the last rung leaves open: .004.
    itself = Stopping("curve", RUNGS, keep=0.01).thresholds(curves)
    given = Stopping("curve", RUNGS, keep=0.01).thresholds(curves, noise=0.004)
    assert itself == pytest.approx(given, abs=0.001)


def test_predictions_are_as_far_off_as_they_say() -> None:
    """Ever since there are three trials: of those with a chance of .1 to end lower, about a tenth does."""
    lower, count = 0, 0
    for seed in range(60):
        for size in (3, 5, 8, 20):
            *curves, last = straight(size + 1, 0.01, seed)
            prediction = Stopping("curve", RUNGS).predicted(curves, Curve(last.rungs[:1]))
            assert prediction is not None
            assert last.final is not None
            lower += abs(last.final - prediction.mean) > 2 * prediction.deviation
            count += 1
    assert 0.02 < lower / count < 0.12


def test_curve_is_asha_while_little_is_known() -> None:
    curves = [*straight(2, 0.004), Curve((2.5, 2.5)), Curve((2.4,))]
    asha = Stopping("asha", RUNGS, startup=0).thresholds(curves)
    assert Stopping("curve", RUNGS, startup=0).thresholds(curves) == asha != (None,) * 4


def test_crossing_curves_go_on() -> None:
    """The first two rungs say nothing of the end, the last one all."""
    rng = np.random.default_rng(1)
    curves = [
        Curve((*rng.normal(2.2, 0.1, 2).tolist(), end + 0.1, end + 0.05), end) for end in rng.normal(1.9, 0.1, 20)
    ]
    first, second, third, fourth = Stopping("curve", RUNGS).thresholds(curves)
    assert first is None
    assert second is None
    assert third is not None
    assert fourth is not None


def test_rungs_that_are_measured_at_once_and_trials_that_are_alike() -> None:
    """Two rungs that one step passes have the same loss; trials of the same losses say nothing of others."""
    ends = np.random.default_rng(0).normal(2.0, 0.1, 12).tolist()
    same = [Curve((end + 0.1, end + 0.1, end + 0.05, end), end) for end in ends]
    stopping = Stopping("curve", RUNGS, keep=0.01)
    assert stopping.thresholds(same) == pytest.approx([min(ends) + more for more in (0.1, 0.1, 0.05, 0)])
    assert stopping.predicted([Curve((2.1,) * 4, 2.1)] * 9, Curve((2.3,))) is None


def test_outliers_do_not_move_a_prediction() -> None:
    curves = straight(30, 0.004)
    outliers = [
        Curve((8.95, 8.9, 8.9, 8.9), 8.0),
        Curve((9.0, 2.0, 2.0, 2.0), 1.9),
        Curve((2.1, 2.05, 2.0, 1.95), 8.0),
        Curve((2.1, math.inf)),
        Curve((2.1, 2.0, 2.0, 2.0), math.inf),
    ]
    stopping, stopped = Stopping("curve", RUNGS), Curve((2.1,))
    without, with_them = stopping.predicted(curves, stopped), stopping.predicted([*curves, *outliers], stopped)
    assert without is not None
    assert with_them is not None
    assert with_them.mean == pytest.approx(without.mean, abs=without.deviation)
    assert with_them.deviation < 2 * without.deviation


def test_that_only_good_trials_finish_does_not_mislead() -> None:
    """Where the worse half ended at the second rung, the first one's predictions are still right on average."""
    stopping, stopped, errors, naive_errors = Stopping("curve", RUNGS), Curve((2.1,)), [], []
    for seed in range(40):
        everyone = straight(60, 0.05, seed)
        middle = sorted(curve.rungs[1] for curve in everyone)[20]
        selected = [curve if curve.rungs[1] <= middle else Curve(curve.rungs[:2]) for curve in everyone]
        prediction = stopping.predicted(selected, stopped)
        naive = stopping.predicted([curve for curve in selected if curve.final is not None], stopped)
        assert prediction is not None
        assert naive is not None
        errors.append(prediction.mean - (1.2 * 1.95 - 0.5))
        naive_errors.append(naive.mean - (1.2 * 1.95 - 0.5))
    assert np.mean(naive_errors) < -0.03
    assert abs(np.mean(errors)) < 0.02


def test_the_nearest_stopped_trials_are_promising() -> None:
    curves = straight(40, 0.004)
    floor = min(curve.rungs[0] for curve in curves)
    curves += [Curve((floor + 0.3,)), Curve((floor + 0.004,)), Curve((floor - 0.01,)), Curve((floor + 0.002, floor))]
    found = Stopping("curve", RUNGS).promising(curves, 5)
    assert found[0] == 42
    assert set(found) <= {41, 42, 43}
    assert Stopping("curve", RUNGS).promising(curves, 1) == [42]


# A study of synthetic trials.


def trained(step: float, rng: np.random.Generator) -> list[float]:
    """Losses at the rungs and the end of a trial with a cosine schedule, of the size of learning rate `step` (log10).

    Small steps learn slowly, large ones are high until the rate decays, and one in ten of the largest fails: curves
    cross. The best is near 1.84 at -1.5; trials of one step differ by .005.
    """
    if step > -0.4 and rng.random() < 0.1:
        return [9.0] * 5
    found, noise = [], float(rng.normal())
    for share in (*RUNGS, 1.0):
        rate = (1 + math.cos(math.pi * share)) / 2
        done = share - math.sin(2 * math.pi * share) / (4 * math.pi)
        learned = 1 - math.exp(-((8 * 10 ** (step + 2.2) * done) ** 0.7))
        high_rate = 0.9 * max(0.0, step + 1.1) ** 1.5
        noise = 0.7 * noise + 0.71 * float(rng.normal())
        found.append(2.25 - 0.41 * learned * (1 - 0.15 * math.exp(-6 * share)) + high_rate * (0.35 + 0.65 * rate))
        found[-1] += 0.005 * learned * noise
    return found


def search(rule: Rule | None, seed: int, trials: int = 60) -> tuple[float, float, list[float]]:
    """Random steps in blocks of four, then promotion: whole trainings spent, the best loss, all losses."""
    rng = np.random.default_rng(seed)
    stopping = Stopping(rule or "median", RUNGS)
    everything = [trained(float(rng.uniform(-5, 0)), rng) for _ in range(trials)]
    curves: list[Curve] = []
    spent = 0.0
    for number, losses in enumerate(everything):
        if number % 4 == 0:
            thresholds = stopping.thresholds(curves) if rule else (None,) * 4
        stopped = [rung for rung, threshold in enumerate(thresholds) if losses[rung] > high(threshold)]
        spent += RUNGS[stopped[0]] if stopped else 1
        curves.append(Curve(tuple(losses[: stopped[0] + 1])) if stopped else Curve(tuple(losses[:4]), losses[4]))
    promoted = stopping.promising(curves, 3) if rule else []
    spent += sum(1 - RUNGS[len(curves[number].rungs) - 1] for number in promoted)
    ends = [losses[4] for losses in everything]
    return spent, min([best(curves), *(ends[number] for number in promoted)]), ends


@pytest.mark.parametrize(("rule", "most"), [("median", 0.7), ("asha", 0.5), ("curve", 0.5)])
def test_a_study_finds_the_best_for_less(rule: Rule, most: float) -> None:
    spent, regrets = [], []
    for seed in range(10):
        cost, found, ends = search(rule, seed)
        spent.append(cost / len(ends))
        regrets.append(found - min(ends))
    assert np.mean(spent) < most
    assert sum(regret <= 0.005 for regret in regrets) >= 9


def test_what_is_far_above_all_that_finished_is_not_promising() -> None:
    """Where little is known the deviation far away is so large that a chance is left."""
    finished = [Curve((2.9 + x, 2.7 + x), 2.5 + x) for x in (0.0, 0.1, 0.02, 0.3, 0.15)]
    stopped = [Curve((2.95,)), Curve((7.0,)), Curve((30.0,))]
    rules = Stopping("asha", (0.2, 0.5), startup=1, keep=0.5)
    assert set(rules.promising([*finished, *stopped], 3)) <= {5}


def test_what_is_told_where_no_line_can_be_fitted() -> None:
    """As the median of the others went on, but worse than the best; nothing where none has finished."""
    rules = Stopping("asha", (0.2, 0.5), startup=3)
    same = [Curve((3.0, 2.0), final) for final in (1.0, 1.5, 1.4)]
    assert rules.predicted(same, Curve((3.2,))) is None
    assert rules.predicted_value(same, Curve((3.2,))) == pytest.approx(3.2 - 1.6)
    assert rules.predicted_value(same, Curve((2.0,))) == math.nextafter(1.0, math.inf)
    assert rules.predicted_value(same, Curve((math.inf,))) is None
    assert rules.predicted_value([Curve((3.0,))], Curve((3.2,))) is None
