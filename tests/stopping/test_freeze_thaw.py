"""The model of points and curves: equal to the plain solve, right where the answer is known, honest about the rest."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from meshtune.samplers.gp.model import matern
from meshtune.stopping import freeze_thaw
from meshtune.stopping.freeze_thaw import Curves, Factor, Measured, Model, Parameters, fit, updated

Array = NDArray[np.float64]
SHARES = (0.1, 0.15, 0.3, 0.5, 0.7, 1.0)
THREE = np.arange(3)
PARAMETERS = Parameters(np.array([0.5, 0.9, 1.4]), 1.1, 0.7, 1.3, 0.25, 0.03, 0.06, 0.4, 0.04)


def some(n: int, seed: int = 0) -> Curves:
    """Trials that stand anywhere, some without a measurement in between or with the last one alone."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n, len(SHARES))) + np.linspace(1, 0, len(SHARES))
    for row in seen[n // 4 :]:
        row[rng.integers(1, len(SHARES)) :] = np.nan
    seen[1, :-1] = np.nan
    seen[2, 2] = np.nan
    return Curves(rng.random((n, 3)), THREE, np.array(SHARES), seen)


def plain(curves: Curves, p: Parameters, others: Array) -> tuple[float, Array, Array]:
    """Log likelihood; mean and covariance at the end for all trials and other points: one matrix of all losses."""
    points = np.concatenate([curves.features, others])
    squares = (points[:, None] - points) ** 2
    end = p.end * matern((squares / p.lengths**2).sum(2))[0]
    course = p.course * matern((squares / (p.longer * p.lengths) ** 2).sum(2))[0]
    t = curves.shares
    down = 1 / (t + p.bend) - 1 / (1 + p.bend)
    down /= down[0]
    mixture = p.own_bend / (t[:, None] + t + p.own_bend)
    mixture -= np.outer(mixture[-1], mixture[-1]) / mixture[-1, -1]
    own = p.own + p.own_decay * mixture / mixture[0, 0]
    level = freeze_thaw.LEVEL + freeze_thaw.STEPS * np.eye(len(t))
    i, j = np.nonzero(np.isfinite(curves.seen))
    covariance = end[np.ix_(i, i)] + course[np.ix_(i, i)] * np.outer(down[j], down[j]) + level[np.ix_(j, j)]
    covariance += (i[:, None] == i) * own[np.ix_(j, j)]
    covariance += np.diag(freeze_thaw.JITTER + p.noise * (j < len(t) - 1))
    across = end[i] + level[j, -1][:, None] + p.own * (i[:, None] == np.arange(len(points)))
    losses = curves.seen[i, j]
    likelihood = -0.5 * losses @ np.linalg.solve(covariance, losses) - 0.5 * np.linalg.slogdet(covariance)[1]
    before = end + level[-1, -1] + p.own * np.eye(len(points))
    return (
        float(likelihood + 0.5 * np.linalg.slogdet(level)[1]),  # a constant
        across.T @ np.linalg.solve(covariance, losses),
        before - across.T @ np.linalg.solve(covariance, across),
    )


def model_of(curves: Curves, p: Parameters = PARAMETERS) -> Model:
    return Model(curves, p, freeze_thaw.Logarithm(0.0, 1.0))


def test_it_is_the_plain_solve() -> None:
    curves, others = some(25), np.random.default_rng(1).random((4, 3))
    likelihood, mean, covariance = plain(curves, PARAMETERS, others)
    finals = model_of(curves).final(others)
    assert -Factor(curves, PARAMETERS).badness == pytest.approx(likelihood, abs=1e-8)
    assert finals.mean == pytest.approx(mean, abs=1e-8)
    assert finals.covariance == pytest.approx(covariance, abs=1e-8)


def test_a_hundred_trials_at_six_shares_are_the_plain_solve_of_six_hundred_losses() -> None:
    rng = np.random.default_rng(2)
    curves = Curves(rng.random((100, 3)), THREE, np.array(SHARES), rng.normal(size=(100, 6)))
    likelihood, mean, covariance = plain(curves, PARAMETERS, curves.features[:0])
    finals = model_of(curves).final()
    assert -Factor(curves, PARAMETERS).badness == pytest.approx(likelihood, abs=1e-8)
    assert finals.mean == pytest.approx(mean, abs=1e-8)
    assert finals.covariance == pytest.approx(covariance, abs=1e-8)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    curves = some(20, seed=3)
    at = np.log(np.concatenate([PARAMETERS.lengths, PARAMETERS[1:]]))
    step = 1e-5

    def badness(index: int, away: float) -> float:
        return Factor(curves, Parameters.of(at + away * np.eye(len(at))[index])).badness

    slopes = [(badness(index, step) - badness(index, -step)) / (2 * step) for index in range(len(at))]
    assert Factor(curves, PARAMETERS).gradient() == pytest.approx(slopes, rel=1e-5, abs=1e-5)


def test_the_end_of_new_points_with_others_pending_is_a_part_of_the_joint_answer() -> None:
    """A pending point is one whose end is known to be what is expected: it makes others surer, and moves no mean."""
    curves, rng = some(15, seed=4), np.random.default_rng(4)
    points, pending = rng.random((3, 3)), rng.random((2, 3))
    model = model_of(curves)
    mean, deviation = model.end(points, pending)
    finals = model.final(np.concatenate([points, pending]))
    of_points, of_pending = slice(15, 18), slice(18, 20)
    joint = finals.covariance
    surer = joint[of_points, of_pending] @ np.linalg.inv(joint[of_pending, of_pending]) @ joint[of_pending, of_points]
    left = np.diag(joint[of_points, of_points] - surer) - PARAMETERS.own
    assert mean == pytest.approx(finals.mean[of_points])
    assert deviation**2 == pytest.approx(left)
    assert (deviation < model.end(points, pending[:0])[1]).all()


def test_of_trials_that_ended_the_loss_is_known() -> None:
    curves = some(12, seed=5)  # the first quarter ended, one of them with its last loss alone
    model = model_of(curves)
    finals = model.final()
    assert model.finished.sum() == 3
    known = curves.seen[model.finished, -1]
    assert finals.mean[model.finished] == pytest.approx(known, abs=0.01)
    assert (finals.deviation[model.finished] < 0.01).all()
    assert (finals.deviation[~model.finished] > 0.1).all()


def study(count: int, seed: int, stopped: int) -> tuple[Array, list[list[Measured]], Array]:
    """Points of two variables, curves of which the first `stopped` have the first three losses, and their ends.

    A large step (the first variable) falls early and ends higher: until half of the training the worst are ahead.
    """
    rng = np.random.default_rng(seed)
    points = rng.random((count, 2))
    ends = 2.0 + 0.4 * points[:, 0] + 0.1 * points[:, 1] + 0.005 * rng.normal(size=count)
    left = np.array([1.0, 0.85, 0.55, 0.3, 0.15, 0.0])
    curves = ends[:, None] + left * (1.5 - 0.9 * points[:, :1]) + 0.01 * rng.normal(size=(count, 6)) * (left > 0)
    whole = [list(zip(SHARES, row.tolist(), strict=True)) for row in curves]
    return points, [row[:3] if index < stopped else row for index, row in enumerate(whole)], curves[:, -1]


def test_curves_that_cross_are_learned_from_the_others() -> None:
    """At the third rung the lower loss ends higher, and the model says so."""
    points, curves, ends = study(24, seed=0, stopped=12)
    model = fit(points, np.arange(2), curves)
    now = np.array([curve[-1][1] for curve in curves[:12]])
    expected = model.final().at(0.5)[:12]
    assert np.corrcoef(now, ends[:12])[0, 1] < 0.3
    assert np.corrcoef(expected, ends[:12])[0, 1] > 0.98
    assert np.abs(expected - ends[:12]).mean() < 0.03


def test_intervals_hold_what_they_say() -> None:
    """Of studies that the model itself makes, with parameters that it does not know: 80 and 95 % of the ends."""
    inside = {0.8: 0, 0.95: 0}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        points = rng.random((30, 3))
        factor = Factor(Curves(points, THREE, np.array(SHARES), np.zeros((30, 6))), PARAMETERS)
        end, course = (
            np.linalg.cholesky(k + 1e-9 * np.eye(30)) @ rng.normal(size=30) for k in (factor.end, factor.course)
        )
        own = rng.normal(size=(30, 6)) @ np.linalg.cholesky(factor.own).T
        seen = np.outer(end, np.ones(6)) + np.outer(course, factor.decay[:, 1]) + own
        losses = 2 + np.exp(0.3 * seen)
        curves = [list(zip(SHARES, row.tolist(), strict=True))[: 3 if i < 18 else 6] for i, row in enumerate(losses)]
        finals = fit(points, THREE, curves).final()
        for share in inside:
            low, high = finals.at((1 - share) / 2)[:18], finals.at((1 + share) / 2)[:18]
            inside[share] += int(((low < losses[:18, -1]) & (losses[:18, -1] < high)).sum())
    assert 0.7 < inside[0.8] / 144 < 0.92
    assert 0.88 < inside[0.95] / 144 <= 1


def test_a_fit_is_the_same_every_time_and_moves_with_the_losses() -> None:
    points, curves, _ = study(16, seed=1, stopped=8)
    one, again = fit(points, np.arange(2), curves), fit(points, np.arange(2), curves)
    assert one.final().mean.tobytes() == again.final().mean.tobytes()
    moved = fit(points, np.arange(2), [[(share, 3 * loss - 1) for share, loss in curve] for curve in curves])
    assert moved.final().at(0.5) == pytest.approx(3 * one.final().at(0.5) - 1, rel=1e-4)


def test_draws_are_of_the_joint_distribution() -> None:
    points, curves, _ = study(10, seed=2, stopped=4)
    model = fit(points, np.arange(2), curves)
    finals = model.final(points[:1] + 0.3)
    drawn = finals.logarithm(finals.draws(20000))
    assert drawn.mean(0) == pytest.approx(finals.mean, abs=5 * finals.deviation.max() / math.sqrt(20000))
    assert np.cov(drawn.T) == pytest.approx(finals.covariance, abs=0.05 * np.diag(finals.covariance).max())
    assert finals.draws(3).tobytes() == finals.draws(3).tobytes()


def test_of_many_trials_those_that_ended_are_seen_by_their_end() -> None:
    points, curves, _ = study(104, seed=5, stopped=3)
    seen = np.isfinite(fit(points, np.arange(2), curves).curves.seen).sum(1)
    assert seen.tolist() == [3] * 3 + [1] * 101


def test_parameters_serve_for_what_is_measured_later() -> None:
    """With the curves that they were fitted to, it is the same model; a further loss is seen."""
    points, curves, _ = study(12, seed=0, stopped=6)
    model = fit(points, np.arange(2), curves)
    again = updated(model, points, curves)
    assert (again.final().mean == model.final().mean).all()
    whole = study(12, seed=0, stopped=0)[1]
    later = updated(model, points, [whole[0], *curves[1:]])
    assert later.parameters == model.parameters
    assert later.finished.sum() == model.finished.sum() + 1


def test_a_category_has_one_length_and_trials_may_have_no_rungs() -> None:
    """Two columns of one variable; without rungs it is a process over points."""
    rng = np.random.default_rng(6)
    kind = rng.integers(2, size=20)
    points = np.column_stack([rng.random(20), np.sqrt(0.5) * (kind == 0), np.sqrt(0.5) * (kind == 1)])
    model = fit(
        points, np.array([0, 1, 1]), [[(1.0, 2 + row[0] + 0.5 * k)] for row, k in zip(points, kind, strict=True)]
    )
    assert len(model.parameters.lengths) == 2
    new = [np.array([0.5, np.sqrt(0.5) * (k == 0), np.sqrt(0.5) * (k == 1)]) for k in (0, 1)]
    assert model.final(np.array(new)).at(0.5)[20:] == pytest.approx([2.5, 3.0], abs=0.1)


def test_losses_that_are_all_the_same() -> None:
    """Nothing is told apart, and nothing fails."""
    points = np.random.default_rng(7).random((5, 2))
    for count in (1, 5):
        curves = [[(0.5, 2.0), (1.0, 2.0)][: 1 + index % 2] for index in range(count)]
        finals = fit(points[:count], np.arange(2), curves).final(points)
        assert np.isfinite(finals.at(0.5)).all()
        assert finals.at(0.5)[0] == pytest.approx(2.0, abs=0.5)


def test_a_start_from_earlier_parameters_ends_as_likely() -> None:
    points, curves, _ = study(20, seed=8, stopped=10)
    first = fit(points, np.arange(2), curves)
    again = fit(points, np.arange(2), curves, start=first.parameters)
    assert again.factor.badness == pytest.approx(first.factor.badness, abs=0.5)


def test_shares_may_differ_between_trials() -> None:
    points, curves, ends = study(20, seed=9, stopped=8)
    thinned = [
        list(itertools.compress(curve, (1, index % 2, 1, 1, index % 3, 1))) for index, curve in enumerate(curves)
    ]
    expected = fit(points, np.arange(2), thinned).final().at(0.5)[:8]
    assert np.abs(expected - ends[:8]).mean() < 0.05
