"""The recommended trial: by the evidence of its neighbours, whoever proposed it."""

import dataclasses

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.samplers.recommend import recommend

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def trials(values: np.ndarray, points: np.ndarray) -> list[FrozenTrial]:
    found = []
    for number, (value, (x, y)) in enumerate(zip(values, points, strict=True)):
        failed = bool(np.isnan(value))
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else float(value),
            params={"x": float(x), "y": float(y)},
            distributions=dict(SPACE),
        )
        trial.number = number
        found.append(trial)
    return found


def bowl(points: np.ndarray) -> np.ndarray:
    return np.asarray(((points - 0.4) ** 2).sum(axis=1))


def test_over_many_studies_it_is_nearer_to_the_minimum_than_the_best() -> None:
    ratios = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        points = rng.random((50, 2))
        values = bowl(points) + rng.normal(0, 0.03, 50)
        found = recommend(trials(values, points), SPACE, direction=StudyDirection.MINIMIZE)
        assert found is not None
        assert abs(found.mean - bowl(points)[found.number]) < 4 * found.deviation
        assert 0.015 < found.noise < 0.06
        ratios.append(np.log(bowl(points)[found.number] / bowl(points)[int(values.argmin())]))
    assert np.mean(ratios) < np.log(0.8)


def test_maximization_is_its_mirror_image() -> None:
    points = np.random.default_rng(0).random((20, 2))
    down = recommend(trials(bowl(points), points), SPACE, direction=StudyDirection.MINIMIZE)
    up = recommend(trials(-bowl(points), points), SPACE, direction=StudyDirection.MAXIMIZE)
    assert down is not None
    assert up == dataclasses.replace(down, mean=-down.mean)


def test_failed_and_infeasible_trials_are_never_recommended() -> None:
    points = np.random.default_rng(0).random((30, 2))
    values = bowl(points)
    first, second = np.argsort(values)[:2]
    values[first] = np.nan
    study = optuna.create_study()
    for number, (value, (x, y)) in enumerate(zip(values, points, strict=True)):
        study.enqueue_trial({"x": float(x), "y": float(y)})
        trial = study.ask(dict(SPACE))
        if np.isnan(value):
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_constraint("memory", 1.0 if number == second else -1.0)
        study.tell(trial, float(value))
    found = recommend(study.trials, SPACE, direction=StudyDirection.MINIMIZE)
    assert found is not None
    assert found.number not in (first, second)


@pytest.mark.parametrize("count", [0, 4])
def test_from_too_few_nothing_is_recommended(count: int) -> None:
    points = np.random.default_rng(0).random((count, 2))
    assert recommend(trials(bowl(points), points), SPACE, direction=StudyDirection.MINIMIZE) is None
