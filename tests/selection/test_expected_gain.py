"""What going on is expected to gain: little once the search has found the best, much before, and the same each time."""

import math
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.samplers.encoding import Encoding
from meshtune.selection.expected_gain import ExpectedGain, expected_gain, gain_of
from meshtune.trial import Ending, Outcome
from tests.selection.test_response import made

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def trials(points: np.ndarray, noise: float, floor: float = 1.0) -> list[FrozenTrial]:
    """Of a bowl above `floor`."""
    rng, found = np.random.default_rng(1), []
    for number, (x, y) in enumerate(points.tolist()):
        value = floor + (x - 0.4) ** 2 + (y - 0.4) ** 2 + noise * rng.normal()
        trial = create_trial(value=value, params={"x": x, "y": y}, distributions=dict(SPACE))
        trial.number = number
        found.append(trial)
    return found


def gain(ended: list[FrozenTrial], by_model: bool = True) -> ExpectedGain:
    found = gain_of(ended, Encoding(SPACE), [trial.number for trial in ended], by_model=by_model)
    assert found is not None
    return found


def test_it_covers_what_there_is_to_gain_and_falls_as_the_search_goes_on() -> None:
    rng = np.random.default_rng(0)
    far = rng.random((12, 2)) * 0.3 + [0.7, 0.0]  # the best of them lies .1 above the floor
    near = np.concatenate([far, 0.4 + 0.05 * rng.normal(size=(20, 2))])
    first, last = gain(trials(far, 0.001)), gain(trials(near, 0.001))
    least = min((x - 0.4) ** 2 + (y - 0.4) ** 2 for x, y in far.tolist())
    assert first.low <= least / (1 + least) <= first.high
    assert first.mean > 0.02
    assert last.mean < 0.01 * first.mean
    assert last.low <= last.mean <= last.high
    assert gain(trials(near, 0.001)) == last


def test_a_search_by_draws_is_expected_to_gain_less_and_more_trials_more() -> None:
    ended = trials(np.random.default_rng(0).random((10, 2)), 0.001)
    numbers = [trial.number for trial in ended]
    few = gain_of(ended, Encoding(SPACE), numbers, trials=3)
    assert few is not None
    assert gain(ended, by_model=False).mean < gain(ended).mean
    assert few.mean < gain(ended).mean


def test_noise_leaves_less_to_be_known() -> None:
    points = np.random.default_rng(0).random((30, 2)) * 0.1 + 0.35
    loud = gain(trials(points, 0.05))
    assert loud.low < 0 < loud.high  # what is recommended after more noise may be worse
    assert loud.mean < 0.1


def test_of_a_space_whose_points_are_all_tried_nothing_is_expected() -> None:
    space = {"x": CategoricalDistribution(tuple(range(9)))}
    ended = []
    for number in range(9):
        trial = create_trial(value=1.0 + 0.1 * number, params={"x": number}, distributions=dict(space))
        trial.number = number
        ended.append(trial)
    assert gain_of(ended, Encoding(space), list(range(9))) == ExpectedGain(0.0, 0.0, 0.0)
    some = gain_of(ended[1:], Encoding(space), list(range(1, 9)))
    assert some is not None
    assert some.high > 0


def test_too_few_losses_or_equal_ones_say_nothing() -> None:
    points = np.random.default_rng(0).random((9, 2))
    ended = trials(points, 0.0)
    failed = create_trial(state=TrialState.FAIL, params=ended[0].params, distributions=dict(SPACE))
    assert gain_of([*ended[:7], failed], Encoding(SPACE), list(range(7))) is None
    flat = [create_trial(value=1.0, params=trial.params, distributions=dict(SPACE)) for trial in ended]
    assert gain_of(flat, Encoding(SPACE), list(range(9))) is None


def test_of_a_record_only_what_is_allowed_counts_and_promotions_do_not(tmp_path: Path) -> None:
    record = made(tmp_path, 20)
    found = expected_gain(record)
    assert found is not None
    assert found.mean > 0
    nothing = expected_gain(record, lambda _: False)
    assert nothing == ExpectedGain(0.0, 0.0, 0.0)
    half = expected_gain(record, lambda point: point["kind"] == "a")
    assert half is not None
    assert math.isfinite(half.mean)
    record.promote(Outcome(0, 1, Ending.COMPLETE, loss=-9.0))
    assert expected_gain(record) == found


@pytest.mark.parametrize("count", [0, 7])
def test_of_a_record_with_few_trials_it_is_none(tmp_path: Path, count: int) -> None:
    assert expected_gain(made(tmp_path, count)) is None
