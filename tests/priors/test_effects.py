"""The shape of the loss, and the processes over tasks, by their limiting cases."""

import math
from dataclasses import replace

import numpy as np
import pytest

from meshtune.priors import fit
from meshtune.priors.effects import PARTS, Effects, Known, least, predict, relative_loss
from meshtune.priors.runs import Facts, Run, Task

EFFECTS: Effects = (-1.7, -3.5, 1.0, 0.05, 0.002)
FACTS = Facts("qwen3", 4096, 1000, 780, 128)
NOTHING = dict.fromkeys(PARTS, 0.0)


def test_the_peak_is_the_lowest_product_and_moves_with_the_rank() -> None:
    for rank in (4, 64, 128):
        peak = 10 ** (EFFECTS[0] + EFFECTS[3] * (math.log2(rank) - 6))
        lowest = relative_loss(EFFECTS, peak, rank)
        assert lowest == pytest.approx(-EFFECTS[4] * (math.log2(rank) - 6))
        assert all(relative_loss(EFFECTS, peak * factor, rank) > lowest for factor in (0.9, 1.1))
        assert relative_loss(EFFECTS, peak * 3, rank) > relative_loss(EFFECTS, peak / 3, rank)
    assert least(EFFECTS, (4, 64)) == 0
    assert math.isfinite(relative_loss(EFFECTS, 1e9, 4))


def test_the_fit_has_the_same_shape() -> None:
    products, ranks = np.array([1e-3, 1e-2, 0.05, 1.0]), np.array([8, 16, 64, 128])
    found = fit.relative_losses(np.array(EFFECTS), np.log10(products), np.log2(ranks))
    assert found == pytest.approx([relative_loss(EFFECTS, p, r) for p, r in zip(products, ranks, strict=True)])


def test_a_task_is_found_again_from_its_runs() -> None:
    points = [(rank, 10**product / 32) for rank in (8, 32, 128) for product in np.arange(-3, -0.9, 0.25)]
    runs = [Run(rank, 32, 0.0, rate, 2.0 * math.exp(relative_loss(EFFECTS, 32 * rate, rank))) for rank, rate in points]
    task = Task(FACTS, "m", "d", "s", "l", tuple(runs), {})
    known = fit.known_task(task, fit.Prior(*fit.FIRST))
    assert known.effects == pytest.approx(EFFECTS, abs=0.05)
    assert known.effects[0] == pytest.approx(EFFECTS[0], abs=0.01)


def test_what_is_known_of_the_same_task_is_expected_and_of_a_stranger_nothing() -> None:
    known = [Known(FACTS, EFFECTS, (0.0,) * 5)]
    centres: Effects = (0.0,) * 5
    scales = [{**NOTHING, "family": 1.0}] * 5
    same = predict(known, FACTS, centres, scales)
    assert same.means == pytest.approx(EFFECTS, abs=1e-6)
    assert same.deviations == pytest.approx((0.0,) * 5, abs=1e-5)
    other = predict(known, replace(FACTS, family="llama"), centres, scales)
    assert (other.means, other.deviations) == (centres, (1.0,) * 5)
    assert predict(known, replace(FACTS, family="qwen2"), centres, scales).means == pytest.approx(EFFECTS, abs=1e-6)


def test_an_effect_of_the_steps_is_carried_on_in_their_logarithm() -> None:
    scales = [{**NOTHING, "steps": 1e3, "mean": 1e3}] * 5
    known = [
        Known(replace(FACTS, steps=steps), (peak, *EFFECTS[1:]), (1e-9,) * 5)
        for steps, peak in ((780, -2.0), (78, -1.5))
    ]
    found = predict(known, replace(FACTS, steps=7800), EFFECTS, scales)
    assert found.means[0] == pytest.approx(-2.5, abs=1e-3)


def test_draws_are_the_same_each_time_and_have_the_mean() -> None:
    predicted = predict([Known(FACTS, EFFECTS, (0.0,) * 5)], FACTS, EFFECTS, [{**NOTHING, "task": 0.1}] * 5)
    draws = predicted.draws(40)
    assert draws == predicted.draws(40)
    assert np.mean(draws, axis=0) == pytest.approx(predicted.means)
