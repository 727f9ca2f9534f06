"""The Gaussian process against the same one written out with a wide prior on its mean, and what it is limited to."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from scipy.optimize import approx_fprime
from scipy.spatial.distance import cdist

from meshtune.samplers import BatchGPSampler
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.model import JITTER, MOST_KNOWN, Fitted, Likelihood, Process, few, matern, objective
from meshtune.samplers.gp.observations import observed
from meshtune.samplers.gp.space import Array, Cube
from meshtune.samplers.outcomes import TrialReader
from meshtune.testing.samplers import Space

WIDE = 1e6  # variance of the mean's prior, beside a signal near 1
COLUMNS = np.arange(2)
PLANE: Space = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}


def data(n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    features = rng.random((n, 2))
    return features, np.sin(5 * features[:, 0]) + features[:, 1] + 0.1 * rng.normal(size=n)


def kernel(one: Array, other: Array, parameters: Array) -> Array:
    """With the mean as one more signal, common to all points."""
    lengths = np.exp(parameters[:2])
    squared = cdist(one / lengths, other / lengths, "sqeuclidean")
    return WIDE + float(np.exp(parameters[2])) * matern(squared)[0]


def with_noise(features: Array, parameters: Array) -> Array:
    return kernel(features, features, parameters) + (np.exp(parameters[3]) + JITTER) * np.eye(len(features))


@pytest.mark.parametrize("n", [3, 8, 30])
def test_the_likelihood_is_that_of_a_mean_of_which_nothing_is_known(n: int) -> None:
    """Up to a constant: differences between parameters are the same."""
    features, values = data(n)
    likelihood = Likelihood(features, COLUMNS, values)
    rng, ours, theirs = np.random.default_rng(1), [], []
    for _ in range(5):
        parameters = np.log([0.5, 0.8, 1.0, 0.02]) + rng.normal(0, 0.5, 4)
        away = (parameters - np.log(likelihood._medians)) / likelihood._spreads
        matrix = with_noise(features, parameters)
        fit = 0.5 * values @ np.linalg.solve(matrix, values) + 0.5 * np.linalg.slogdet(matrix)[1]
        ours.append(likelihood(parameters)[0])
        theirs.append(fit + 0.5 * away @ away)
    assert np.diff(ours) == pytest.approx(np.diff(theirs), abs=1e-3)


@pytest.mark.parametrize("predicted", [0.0, 0.3])
def test_its_gradient(predicted: float) -> None:
    features, values = data(12)
    likelihood = Likelihood(features, COLUMNS, values, predicted * (np.arange(12) % 2))
    parameters = np.log([0.4, 0.9, 1.3, 0.05])
    numeric = approx_fprime(parameters, lambda at: likelihood(at)[0], 1e-6)
    assert likelihood(parameters)[1] == pytest.approx(numeric, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("pending", [0, 3])
def test_deviations_know_that_the_mean_is_estimated(pending: int) -> None:
    features, values = data(8)
    parameters = np.log([0.4, 0.9, 1.3, 0.05])
    waiting, at = np.random.default_rng(2).random((pending, 2)), np.random.default_rng(3).random((20, 2)) * 3
    mean, deviation = Process(parameters, COLUMNS, features, values, waiting).predict(at)
    across = kernel(features, at, parameters)
    expected = across.T @ np.linalg.solve(with_noise(features, parameters), values)
    every = np.concatenate([features, waiting])
    across = kernel(every, at, parameters)
    solved = np.linalg.solve(with_noise(every, parameters), across)
    variance = WIDE + np.exp(parameters[2]) - np.einsum("ij,ij->j", across, solved)
    assert mean == pytest.approx(expected, abs=1e-4)
    assert deviation == pytest.approx(np.sqrt(variance), abs=1e-4)
    assert deviation.max() > np.exp(0.5 * parameters[2]), "far away it is less sure than if the mean were known"


def test_values_that_are_predicted_have_noise_of_their_own() -> None:
    features, values = data(8)
    parameters, unsure = np.log([0.4, 0.9, 1.3, 0.05]), np.linspace(0, 2, 8)
    at = np.random.default_rng(3).random((20, 2))
    mean, deviation = Process(parameters, COLUMNS, features, values, np.empty((0, 2)), unsure).predict(at)
    matrix, across = with_noise(features, parameters) + np.diag(unsure), kernel(features, at, parameters)
    assert mean == pytest.approx(across.T @ np.linalg.solve(matrix, values), abs=1e-4)
    variance = np.diag(kernel(at, at, parameters) - across.T @ np.linalg.solve(matrix, across))
    assert deviation == pytest.approx(np.sqrt(variance), rel=1e-3)


def test_a_prediction_weighs_the_less_the_less_sure_it_is() -> None:
    """At a point that was stopped, the belief is near its prediction where that is sure, and near the others else."""
    trials = [
        create_trial(value=value, params={"x": x, "y": 0.0}, distributions=dict(PLANE), state=state)
        for x, value, state in [
            (-0.8, 1.0, TrialState.COMPLETE),
            (-0.4, 0.9, TrialState.COMPLETE),
            (0.0, 5.0, TrialState.PRUNED),
            (0.4, 0.9, TrialState.COMPLETE),
            (0.8, 1.0, TrialState.COMPLETE),
        ]
    ]
    study = optuna.create_study()
    study.add_trials(trials)
    cube, reader = Cube(Encoding(PLANE)), TrialReader(tuple(study.directions), pruned="value")
    means = []
    for ends in (None, {2: (1.5, 1e-3)}, {2: (1.5, 3.0)}):
        seen = observed(study.trials, cube, reader, space="", pruned="value", ends=ends)
        mean, _ = objective(cube, seen, "raw", {}, {})(cube.rows([{"x": 0.0, "y": 0.0}]))
        means.append(float(mean[0]))
    assert means[0] > 3 > means[1] > 1.3 > means[2]


def test_points_together_are_as_sure_as_each_alone() -> None:
    features, values = data(8)
    process = Process(np.log([0.4, 0.9, 1.3, 0.05]), COLUMNS, features, values, np.empty((0, 2)))
    at = np.random.default_rng(3).random((20, 2)) * 3
    mean, covariance = process.joint(at)
    alone, deviation = process.predict(at)
    assert mean == pytest.approx(alone)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(deviation)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_a_value_that_is_left_out_is_predicted_without_it() -> None:
    """As by a process of the others with the same mean."""
    features, values = data(12)
    parameters = np.log([0.4, 0.9, 1.3, 0.05])
    process = Process(parameters, COLUMNS, features, values, np.empty((0, 2)))
    found = process.left_out()
    for n in range(12):
        others = np.arange(12) != n
        rest = process._kernel(features[others], features[others]) + (0.05 + JITTER) * np.eye(11)
        across = process._kernel(features[others], features[n : n + 1])[:, 0]
        alone = process._mean + across @ np.linalg.solve(rest, values[others] - process._mean)
        assert found[n] == pytest.approx(alone)


def test_of_many_values_the_lowest_and_an_even_choice_of_the_rest() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(float)
    kept = few(values, 100)
    assert len(set(kept)) == 100
    assert list(kept) == sorted(kept)
    assert sorted(values[kept])[:50] == list(range(50))
    assert {50.0, 999.0} <= set(values[kept])
    assert list(few(values[:100], 100)) == list(range(100))


def recorded(count: int) -> optuna.Study:
    study, rng = optuna.create_study(), np.random.default_rng(0)
    for _ in range(count):
        x, y = rng.uniform(-1, 1, 2)
        value = (x - 0.3) ** 2 + (y + 0.4) ** 2 + 0.01 * rng.normal()
        study.add_trial(create_trial(value=value, params={"x": x, "y": y}, distributions=dict(PLANE)))
    return study


def test_what_a_belief_rests_on_is_bounded_and_still_finds_the_bottom() -> None:
    """So a proposal after a thousand trials costs about what one after four hundred does."""
    study, cube = recorded(1000), Cube(Encoding(PLANE))
    known = observed(study.trials, cube, TrialReader(tuple(study.directions)), space="")
    belief = objective(cube, known, "steady", {}, {})
    assert len(belief.process.values) == MOST_KNOWN
    lowest = known.rows[int(np.argmin(belief(known.rows)[0]))]
    assert lowest == pytest.approx([0.3, -0.4], abs=0.1)


@pytest.mark.parametrize(
    ("values", "fitted_to", "anew"),
    [
        (20, 19, True),
        (59, 58, True),
        (60, 59, False),
        (60, 58, True),
        (90, 88, False),
        (90, 87, True),
        (300, 298, False),
    ],
)
def test_when_parameters_are_fitted_anew(values: int, fitted_to: int, anew: bool) -> None:
    study, cube = recorded(values), Cube(Encoding(PLANE))
    known, fits = observed(study.trials, cube, TrialReader(tuple(study.directions)), space=""), dict[str, Fitted]()
    earlier = Fitted(tuple(np.log([0.5, 0.5, 1.0, 0.02]).tolist()), (), fitted_to)
    objective(cube, known, "raw", {"raw": earlier}, fits)
    assert ("raw" in fits) == anew


def test_beyond_that_a_fresh_sampler_goes_on_as_the_old_one_would() -> None:
    points = []
    for fresh in (False, True):
        study = recorded(MOST_KNOWN - 2)
        sampler = BatchGPSampler(PLANE, block_size=2, seed=1)
        for number in range(6):
            study.sampler = sampler if not fresh else BatchGPSampler(PLANE, block_size=2, seed=1)
            trial = study.ask(dict(PLANE))
            points.append(trial.params)
            study.tell(trial, number / 100)
    assert points[:6] == points[6:]
