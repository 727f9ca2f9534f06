"""When a search ends."""

from meshtune.budget import Budget


def test_the_first_limit_ends_it() -> None:
    budget = Budget(trials=10, hours=1.0, tokens=1000)
    assert budget.reached(proposed=9, elapsed=3599, tokens=999) is None
    assert "10 trials" in budget.reached(proposed=10, elapsed=0, tokens=0).reason  # type: ignore[union-attr]
    assert "1 hours" in budget.reached(proposed=0, elapsed=3600, tokens=0).reason  # type: ignore[union-attr]
    assert "1,000 tokens" in budget.reached(proposed=0, elapsed=0, tokens=1000).reason  # type: ignore[union-attr]


def test_time_holds_what_was_not_started_and_trials_do_not() -> None:
    assert Budget(hours=1.0).reached(proposed=5, elapsed=4000, tokens=0).hold  # type: ignore[union-attr]
    assert not Budget(trials=5).reached(proposed=5, elapsed=0, tokens=0).hold  # type: ignore[union-attr]


def test_no_limit_on_trials() -> None:
    assert Budget(hours=1.0).trials_left(10**6) > 10**6
    assert Budget(trials=3).trials_left(5) == 0
