"""When a search ends."""

import math

from hypothesis import given
from hypothesis import strategies as st

from meshtune.plan.budget import Budget, StopWhen


def test_the_first_limit_ends_it() -> None:
    budget = Budget(trials=10, hours=1.0, tokens=1000)
    assert budget.reached(proposed=9, elapsed=3599, tokens=999) is None
    assert "10 trials" in budget.reached(proposed=10, elapsed=0, tokens=0).reason  # type: ignore[union-attr]
    assert "1 hour is" in budget.reached(proposed=0, elapsed=3600, tokens=0).reason  # type: ignore[union-attr]
    assert "1,000 tokens" in budget.reached(proposed=0, elapsed=0, tokens=1000).reason  # type: ignore[union-attr]


def test_time_holds_what_was_not_started_and_trials_do_not() -> None:
    assert Budget(hours=1.0).reached(proposed=5, elapsed=4000, tokens=0).hold  # type: ignore[union-attr]
    assert not Budget(trials=5).reached(proposed=5, elapsed=0, tokens=0).hold  # type: ignore[union-attr]


def test_no_limit_on_trials() -> None:
    assert Budget(hours=1.0).trials_left(10**6) > 10**6
    assert Budget(trials=3).trials_left(5) == 0


def test_kilowatt_hours() -> None:
    budget = Budget(kilowatt_hours=0.5)
    assert budget.reached(proposed=0, elapsed=0, tokens=0, joules=1.79e6) is None
    assert "0.5 kilowatt-hours" in budget.reached(proposed=0, elapsed=0, tokens=0, joules=1.8e6).reason  # type: ignore[union-attr]


def test_a_target_is_reached_once_and_for_all() -> None:
    rule = StopWhen(target=1.5)
    assert rule.reached([]) is None
    assert rule.reached([2.0, math.inf]) is None
    assert rule.reached([2.0, 1.5, 1.8]).reason == "the target is reached: a loss of 1.5"  # type: ignore[union-attr]


def test_trials_without_an_improvement_are_counted_from_the_last_one() -> None:
    rule = StopWhen(no_improvement=3)
    assert rule.reached([math.inf] * 5) is None  # nothing yet that could be bettered
    assert rule.reached([2.0, 2.0, 2.1, 1.9, math.inf, 2.0]) is None
    assert "last 3" in rule.reached([2.0, 2.0, 2.1, 1.9, math.inf, 2.0, 1.9]).reason  # type: ignore[union-attr]


def test_gains_within_noise_count_once_they_add_up() -> None:
    rule = StopWhen(no_improvement=3, noise=0.1)
    assert rule.reached([2.0, 1.95, 1.92, 1.91]) is not None
    assert rule.reached([2.0, 1.95, 1.92, 1.89]) is None


def test_measured_noise_counts_for_what_comes_after_it() -> None:
    """So that a study which has ended says the same when it is run again."""
    rule = StopWhen(no_improvement=3, noise=0.5, measured=(0.01, 5))
    losses = [2.0, 1.9, 1.8, 1.7, 1.65]
    assert "more than 0.5" in rule.reached(losses).reason  # type: ignore[union-attr]
    assert rule.reached([*losses, 1.64]) is None


@given(st.lists(st.floats(0, 10) | st.just(math.inf), max_size=30), st.integers(1, 5), st.floats(0, 1))
def test_more_patience_never_stops_earlier(losses: list[float], patience: int, noise: float) -> None:
    assert not (
        StopWhen(no_improvement=patience, noise=noise).reached(losses) is None
        and StopWhen(no_improvement=patience + 1, noise=noise).reached(losses) is not None
    )


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 5))
def test_a_new_best_always_counts_without_noise(losses: list[float], patience: int) -> None:
    assert StopWhen(no_improvement=patience).reached([*losses, min(losses) - 1]) is None
