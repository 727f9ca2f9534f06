"""BatchGPSampler: the sampler contract, what it is told, constraints, and spaces of all kinds."""

import math
import time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from meshtune.config.sections import SamplerConfig
from meshtune.errors import InputError
from meshtune.samplers import BatchGPSampler
from meshtune.samplers.build import build
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.observations import NOTE, observed
from meshtune.samplers.gp.space import Cube
from meshtune.samplers.interface import Sampler
from meshtune.samplers.outcomes import TrialReader, WarmStart
from meshtune.testing.samplers import MIXED, SamplerContract, Space, answer_all, points, search, valley

PLANE: Space = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}


class TestContract(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        return build(SamplerConfig(name="batch-gp"), space, x0=None, block_size=block_size, seed=seed)


class TestContractOfKnownPoints(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        earlier = build(SamplerConfig(name="random"), MIXED, x0=None, block_size=1, seed=9)
        given = search(optuna.create_study(), earlier, MIXED, 12).trials
        return BatchGPSampler(space, block_size=block_size, seed=seed, warm_start=given, warm_start_values="shifted")


def bowl(params: dict[str, Any]) -> float:
    return float((params["x"] - 0.3) ** 2 + (params["y"] + 0.4) ** 2)


@pytest.mark.parametrize("block_size", [1, 8])
def test_it_finds_the_bottom_of_a_noisy_bowl(block_size: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    sampler = BatchGPSampler(PLANE, block_size=block_size, seed=1)
    study = search(optuna.create_study(), sampler, PLANE, 40, lambda n, p: bowl(dict(p)) + noise[n])
    assert np.median([bowl(trial.params) for trial in study.trials[-8:]]) < 0.05
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 40


def test_maximize_is_minimize_turned_round() -> None:
    runs = []
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(direction=direction)
        judge = lambda _, params, sign=sign: sign * bowl(dict(params))  # noqa: E731
        runs.append(points(search(study, BatchGPSampler(PLANE, block_size=4, seed=2), PLANE, 20, judge)))
    assert runs[0] == runs[1]


def test_the_start_point_comes_first_unless_it_has_a_trial() -> None:
    study = optuna.create_study(sampler=BatchGPSampler(MIXED, x0={"rank_log2": 4, "kind": "c"}, seed=0))
    first = study.ask(dict(MIXED)).params
    assert (first["rank_log2"], first["kind"], first["scale"]) == (4, "c", 1.5)
    assert study.ask(dict(MIXED)).params != first
    other = optuna.create_study(sampler=BatchGPSampler(MIXED, x0=first, seed=0))
    other.enqueue_trial(first)
    assert other.ask(dict(MIXED)).params == first != other.ask(dict(MIXED)).params


def test_what_an_enqueued_trial_gives_is_kept_and_the_rest_is_chosen() -> None:
    study = search(optuna.create_study(), BatchGPSampler(MIXED, seed=0), MIXED, 12)
    study.enqueue_trial({"kind": "c", "rank_log2": 9})
    trial = study.ask(dict(MIXED))
    assert (trial.params["kind"], trial.params["rank_log2"]) == ("c", 9)
    assert NOTE in study.trials[-1].system_attrs


def test_a_constraint_is_learned_and_kept() -> None:
    """The minimum is where x + y <= -.5 holds with equality: most later points are feasible, and the best is near."""
    study = optuna.create_study(sampler=BatchGPSampler(PLANE, seed=3))
    for _ in range(40):
        trial = study.ask(dict(PLANE))
        trial.set_constraint("line", trial.params["x"] + trial.params["y"] + 0.5)
        study.tell(trial, bowl(trial.params))
    feasible = [trial for trial in study.trials if trial.params["x"] + trial.params["y"] <= -0.5]
    least = 2 * 0.2**2  # at (.1, -.6)
    assert min(bowl(trial.params) for trial in feasible) < least + 0.01
    assert sum(trial in feasible for trial in study.trials[20:]) >= 6  # of 20, at a boundary


def test_where_nothing_is_feasible_yet_it_looks_for_what_is() -> None:
    study = optuna.create_study(sampler=BatchGPSampler(PLANE, seed=3))
    for _ in range(25):
        trial = study.ask(dict(PLANE))
        trial.set_constraint("corner", 1.6 - trial.params["x"] - trial.params["y"])
        study.tell(trial, bowl(trial.params))
    assert any(trial.params["x"] + trial.params["y"] >= 1.6 for trial in study.trials)


def test_failures_are_avoided() -> None:
    def judge(number: int, params: Any) -> float | TrialState:
        return TrialState.FAIL if params["x"] < 0 else bowl(dict(params))

    study = search(optuna.create_study(), BatchGPSampler(PLANE, block_size=4, seed=0), PLANE, 32, judge)
    assert sum(trial.params["x"] < 0 for trial in study.trials[16:]) <= 4


def test_a_finite_space_is_searched_to_its_end() -> None:
    space: Space = {"a": IntDistribution(0, 3), "b": CategoricalDistribution((False, True)), "c": IntDistribution(1, 1)}
    sampler = BatchGPSampler(space, block_size=3, seed=0)
    study = search(optuna.create_study(), sampler, space, 20, lambda _, p: float(p["a"] + p["b"]))
    assert len(study.trials) == len({tuple(trial.params.items()) for trial in study.trials}) == 8
    assert sampler.available(study) == 0
    assert study.ask(dict(space)).params["a"] in range(4)  # beyond it one is evaluated again


def test_a_category_of_no_order_is_found() -> None:
    space: Space = {"kind": CategoricalDistribution(tuple("abcdefgh")), "x": FloatDistribution(-1.0, 1.0)}
    cost = dict(zip("abcdefgh", (1.0, 0.3, 1.0, 0.8, 0.0, 1.0, 0.9, 0.7), strict=True))
    study = search(
        optuna.create_study(), BatchGPSampler(space, seed=1), space, 30, lambda _, p: cost[p["kind"]] + p["x"] ** 2
    )
    assert study.best_params["kind"] == "e"


def test_a_wide_linear_range_is_seen_in_logarithms_where_that_fits() -> None:
    space: Space = {"alpha": IntDistribution(1, 512), "x": FloatDistribution(0.0, 1.0)}
    judge = lambda _, p: (math.log2(p["alpha"]) - 3) ** 2 + p["x"]  # noqa: E731
    study = search(optuna.create_study(), BatchGPSampler(space, seed=1), space, 30, judge)
    notes = [trial.system_attrs[NOTE] for trial in study.trials]
    logged = [fit[1] for note in notes for fit in note.get("fits", {}).values()]
    assert logged[-1] == [0]
    assert abs(math.log2(study.best_params["alpha"]) - 3) < 0.5


@pytest.mark.parametrize("pruned", ["failed", "value", "left_out"])
def test_pruned_trials(pruned: str) -> None:
    def judge(number: int, params: Any) -> float | TrialState:
        return bowl(dict(params)) if bowl(dict(params)) < 0.3 else TrialState.PRUNED

    sampler = BatchGPSampler(PLANE, block_size=4, seed=0, pruned=pruned)  # type: ignore[arg-type]
    study = search(optuna.create_study(), sampler, PLANE, 28, judge)
    assert study.best_value < 0.05


def test_a_pruned_trial_without_a_value_says_nothing_where_values_count() -> None:
    """It is neither failed nor the worst: proposals are as if it were not there, but for its point."""
    space = Cube(Encoding(PLANE))
    reader = TrialReader((StudyDirection.MINIMIZE,), pruned="value")
    study = optuna.create_study()
    for number, (state, value) in enumerate(
        [(TrialState.COMPLETE, 1.0), (TrialState.PRUNED, 2.0), (TrialState.PRUNED, None), (TrialState.FAIL, None)]
    ):
        params = {"x": 0.1 * number, "y": 0.0}
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=dict(PLANE)))
    known = observed(study.trials, space, reader, space="", pruned="value")
    assert known.numbers == (0, 1, 3)
    assert known.objectives[:2].tolist() == [1.0, 2.0]
    assert len(known.visited) == 4


def test_known_points_take_the_opening_away() -> None:
    earlier = search(optuna.create_study(), BatchGPSampler(PLANE, seed=5), PLANE, 20, lambda _, p: bowl(dict(p)))
    study = optuna.create_study(sampler=BatchGPSampler(PLANE, seed=6, warm_start=earlier))
    assert bowl(study.ask(dict(PLANE)).params) < 0.1


def test_an_opening_with_the_seed_of_the_earlier_study_is_not_the_same_again() -> None:
    earlier = search(optuna.create_study(), BatchGPSampler(PLANE, seed=5), PLANE, 4, lambda _, p: bowl(dict(p)))
    sampler = BatchGPSampler(PLANE, seed=5, warm_start=earlier)
    study = search(optuna.create_study(), sampler, PLANE, 4, lambda _, p: bowl(dict(p)))
    points = [tuple(trial.params.values()) for trial in (*earlier.trials, *study.trials)]
    assert len(set(points)) == 8


def test_known_points_of_another_fidelity_are_moved() -> None:
    earlier = search(optuna.create_study(), BatchGPSampler(PLANE, seed=5), PLANE, 20, lambda _, p: bowl(dict(p)))
    sampler = BatchGPSampler(PLANE, seed=6, block_size=4, warm_start=earlier, warm_start_values="shifted")
    study = search(optuna.create_study(), sampler, PLANE, 8, lambda _, p: 5 + bowl(dict(p)))
    best = sorted(earlier.trials, key=lambda trial: trial.value or 0.0)[:4]
    assert [tuple(trial.params.values()) for trial in study.trials[:4]] == [
        pytest.approx(tuple(trial.params.values())) for trial in best
    ]
    assert sorted(bowl(trial.params) for trial in study.trials[4:])[2] < 0.05, "one may look where nobody has been"


def test_proposals_need_no_search_space() -> None:
    study = optuna.create_study(sampler=BatchGPSampler(seed=0))
    study.optimize(lambda trial: (trial.suggest_float("x", -1, 1) - 0.5) ** 2, n_trials=15)
    assert abs(study.best_params["x"] - 0.5) < 0.1


def test_arguments_that_are_not_allowed_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"block_size is 0.*n_startup is -1.*x0 names 'z'.*x0 has x=7"):
        BatchGPSampler(PLANE, block_size=0, n_startup=-1, x0={"z": 1, "x": 7})
    with pytest.raises(InputError, match=r"sampler\.options of `batch-gp`"):
        build(SamplerConfig(name="batch-gp", options={"colour": 3}), MIXED, x0=None, block_size=1, seed=0)
    earlier = optuna.create_study(direction="maximize")
    search(earlier, BatchGPSampler(PLANE, seed=5), PLANE, 3, lambda _, p: bowl(dict(p)))
    study = optuna.create_study(sampler=BatchGPSampler(PLANE, warm_start=earlier))
    with pytest.raises(ValueError, match="other directions"):
        study.ask(dict(PLANE))


def test_a_trial_that_ends_before_it_asks_for_all_has_the_point_that_it_was_given() -> None:
    space: dict[str, BaseDistribution] = {**PLANE}

    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_float("x", -1, 1) < 0:
            raise optuna.TrialPruned
        return bowl({"x": trial.params["x"], "y": trial.suggest_float("y", -1, 1)})

    study = optuna.create_study(sampler=BatchGPSampler(space, seed=0))
    study.optimize(objective, n_trials=24)
    assert study.best_value < 0.02
    assert answer_all(study) == 0


def test_valley_of_the_contract_is_found() -> None:
    study = search(optuna.create_study(), BatchGPSampler(MIXED, block_size=4, seed=0), MIXED, 36)
    assert study.best_value < 0.15
    assert isinstance(valley(0, study.best_params), float)


CHOICE: Space = {"x": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(("a", "b"))}


def test_a_value_that_is_no_category_counts_as_outside() -> None:
    study = optuna.create_study(sampler=BatchGPSampler(CHOICE, seed=0))
    study.enqueue_trial({"kind": "zzz"})
    judge = lambda trial: trial.suggest_float("x", 0, 1) + len(trial.suggest_categorical("kind", ("a", "b")))  # noqa: E731
    study.optimize(judge, n_trials=4, catch=(ValueError,))
    assert [trial.state for trial in study.trials[1:]] == [TrialState.COMPLETE] * 3
    wide: Space = {**CHOICE, "kind": CategoricalDistribution(("a", "b", "c"))}
    earlier = search(optuna.create_study(), BatchGPSampler(wide, seed=1), wide, 12, lambda _, p: float(p["x"]))
    assert "c" in {trial.params["kind"] for trial in earlier.trials}
    later = optuna.create_study(sampler=BatchGPSampler(CHOICE, seed=0, warm_start=earlier))
    assert later.ask(dict(CHOICE)).params["kind"] in ("a", "b")
    with pytest.raises(ValueError, match="x0 has kind='zzz'"):
        BatchGPSampler(CHOICE, x0={"kind": "zzz"})


def test_trials_that_run_at_once_see_each_other() -> None:
    space: Space = {"x": IntDistribution(0, 5), "kind": CategoricalDistribution(("a", "b", "c"))}
    study = optuna.create_study(sampler=BatchGPSampler(space, block_size=4, seed=0))

    def objective(trial: optuna.Trial) -> float:
        x, kind = trial.suggest_int("x", 0, 5), trial.suggest_categorical("kind", ("a", "b", "c"))
        time.sleep(0.05)
        return float(x + ord(kind))

    study.optimize(objective, n_trials=16, n_jobs=4)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 16


@pytest.mark.parametrize("values", ["as_is", "shifted"])
def test_known_constraints_hold_before_the_first_answer(values: Any) -> None:
    earlier = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        asked = earlier.ask()
        x, y = (asked.suggest_float(name, 0, 1) for name in ("x", "y"))
        asked.set_constraint("sum", x + y - 1)
        earlier.tell(asked, x + y)
    space: Space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
    sampler = BatchGPSampler(space, warm_start=earlier, warm_start_values=values, block_size=8, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    block = [study.ask(dict(space)).params for _ in range(8)]
    assert sum(point["x"] + point["y"] < 1.1 for point in block) >= 6


def test_with_known_points_a_trial_may_end_before_it_asks_for_all() -> None:
    earlier = search(optuna.create_study(), BatchGPSampler(PLANE, seed=5), PLANE, 12, lambda _, p: bowl(dict(p)))
    study = optuna.create_study(sampler=BatchGPSampler(PLANE, seed=6, warm_start=earlier))

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        if trial.number == 1:
            raise optuna.TrialPruned
        return bowl({"x": x, "y": trial.suggest_float("y", -1, 1)})

    study.optimize(objective, n_trials=4)
    assert len([trial for trial in study.trials if trial.state is TrialState.COMPLETE]) == 3


def test_of_a_point_that_is_known_twice_the_value_counts() -> None:
    earlier = optuna.create_study()
    for value in (None, 0.0, 0.0):
        earlier.enqueue_trial({"x": 0.5, "y": 0.5})
        trial = earlier.ask(dict(PLANE))
        earlier.tell(trial, value, state=TrialState.FAIL if value is None else None)
    known = WarmStart.of(earlier, "as_is")
    assert known is not None
    ((_, outputs),) = known.by_point(Encoding(PLANE), TrialReader(tuple(earlier.directions))).values()
    assert outputs == (0.0,)


def test_a_large_finite_space_ends_with_its_last_allowed_point() -> None:
    space: Space = {name: IntDistribution(0, 39) for name in ("x", "y")}
    sampler = BatchGPSampler(space, block_size=4, seed=0, a_priori=lambda p: p["x"] + p["y"] < 3)
    study = optuna.create_study(sampler=sampler)
    for _ in range(20):
        block = [study.ask(dict(space)) for _ in range(sampler.available(study))]
        for trial in block:
            study.tell(trial, float(trial.params["x"]))
    assert len(study.trials) == 6
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 6


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_values_that_are_fixed_beside_it_make_another_search() -> None:
    space: Space = {"x": IntDistribution(0, 5), "kind": CategoricalDistribution(("a", "b"))}
    own = BatchGPSampler(space, seed=0)
    study = optuna.create_study(sampler=own)
    for x in range(6):
        study.enqueue_trial({"x": x, "kind": "a"})
    for number in range(12):
        if number == 6:
            study.sampler = optuna.samplers.PartialFixedSampler({"kind": "b"}, own)
        trial = study.ask(dict(space))
        study.tell(trial, trial.params["x"] + 100.0 * (trial.params["kind"] == "a"))
    assert sorted(trial.params["x"] for trial in study.trials[6:]) == list(range(6))
    assert own.available(study) == 0


@pytest.mark.parametrize("given", [{"n_startup": 2.5}, {"n_startup": True}, {"block_size": math.nan}])
def test_counts_are_whole_numbers(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it is a whole number, at least"):
        BatchGPSampler(PLANE, **given)
