"""MADS on what studies ask of it: constraints, several objectives, earlier studies, points from elsewhere."""

import itertools
import logging
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler
from optuna.trial import TrialState, create_trial

from meshtune.errors import SamplerError
from meshtune.samplers import MadsSampler
from meshtune.samplers.mads.ledger import NOTE

UNIT: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def bowl(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    return (x - 0.8) ** 2 + (y - 0.7) ** 2


def studied(objective: Callable[[optuna.Trial], Any], n: int, directions: int = 1, **given: Any) -> optuna.Study:
    given = {"search_space": UNIT, "seed": 1, **given}
    study = optuna.create_study(directions=["minimize"] * directions, sampler=MadsSampler(**given))
    study.optimize(objective, n_trials=n)
    return study


@pytest.mark.parametrize("barrier", ["progressive", "extreme"])
@pytest.mark.parametrize("block_size", [1, 4])
def test_constraints(barrier: str, block_size: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        trial.set_constraint("sum", trial.params["x"] + trial.params["y"] - 1)
        return value

    study = studied(objective, 80, barrier=barrier, block_size=block_size)
    best = study.best_trial  # the feasible one
    assert all(constraint <= 0 for constraint in best.constraints.values())
    assert best.value == pytest.approx(0.125, abs=0.02)  # at (.55, .45)


def test_a_constraint_that_comes_late_is_taken_up() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        trial.set_constraint("sum", trial.params["x"] + trial.params["y"] - 1)
        if trial.number > 20:
            trial.set_constraint("x", trial.params["x"] - 0.3)
        return value

    study = studied(objective, 80)
    late = [t for t in study.trials[40:] if all(constraint <= 0 for constraint in t.constraints.values())]
    assert min(t.value or 1 for t in late) == pytest.approx(0.25, abs=0.03)  # at (.3, .7)


def test_hidden_constraints_say_that_there_is_no_value() -> None:
    """A diverged training reports a value that means nothing: a low one must not attract."""

    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        diverged = trial.params["x"] > 0.5
        trial.set_constraint("ending", float(diverged))
        return -100.0 if diverged else value

    study = studied(objective, 60, hidden_constraints=["ending"])
    assert study.best_value == pytest.approx(0.09, abs=0.01)


def test_other_hidden_constraints_begin_a_new_segment() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        trial.set_constraint("ending", float(trial.params["x"] > 0.5))
        return value

    study = studied(objective, 15)
    study.sampler = MadsSampler(search_space=UNIT, seed=1, hidden_constraints=["ending"])
    study.optimize(objective, n_trials=5)
    assert "open" in study.trials[15].system_attrs[NOTE]


def test_a_start_outside_the_inferred_space_is_said() -> None:
    with pytest.raises(ValueError, match="x0 has x=7, which is outside FloatDistribution"):
        studied(bowl, 3, search_space=None, x0={"x": 7})


def test_what_is_known_before_costs_nothing() -> None:
    study = studied(bowl, 60, a_priori=lambda params: params["x"] + params["y"] <= 1)
    assert all(trial.params["x"] + trial.params["y"] <= 1 for trial in study.trials)
    assert study.best_value == pytest.approx(0.125, abs=0.02)


@pytest.mark.parametrize("share", [0.3, 0.0])
def test_what_is_known_before_holds_beyond_the_block(share: float) -> None:
    """Also where no other point is found: the block's own is given again."""
    sampler = MadsSampler(
        search_space=UNIT, x0={"x": 0.0}, block_size=1, seed=0, a_priori=lambda params: params["x"] <= share
    )
    study = optuna.create_study(sampler=sampler)
    asked = [study.ask(UNIT) for _ in range(6)]
    sampler.close()
    assert all(trial.params["x"] <= share for trial in asked)
    assert len({tuple(trial.params.items()) for trial in asked}) == (6 if share else 1)


def test_failures_and_prunings_keep_mads_away() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        if trial.params["x"] > 0.6:
            raise optuna.TrialPruned
        if trial.params["y"] > 0.6:
            raise ValueError
        return value

    study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, seed=0))
    study.optimize(objective, n_trials=60, catch=(ValueError,))
    assert study.best_value == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("constrained", [False, True])
def test_several_objectives_approach_the_pareto_set(block_size: int, constrained: bool) -> None:
    """Minimize distances to (0, .5) and (1, .5), one of them turned into a maximum: the set is y = .5."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        if constrained:
            trial.set_constraint("x", 0.5 - x)
        return x**2 + (y - 0.5) ** 2, -((x - 1) ** 2) - (y - 0.5) ** 2

    sampler = MadsSampler(search_space=UNIT, seed=0, block_size=block_size)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.optimize(objective, n_trials=80)
    front = [trial.params for trial in study.best_trials]
    assert len(front) > 8
    assert sum(abs(params["y"] - 0.5) for params in front) / len(front) < 0.06
    assert max(params["x"] for params in front) > 0.9
    assert min(params["x"] for params in front) < (0.65 if constrained else 0.15)
    assert not constrained or min(params["x"] for params in front) >= 0.5


def test_three_objectives() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float, float]:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return x**2 + y**2, (x - 1) ** 2 + y**2, x**2 + (y - 1) ** 2

    assert len(studied(objective, 40, directions=3).best_trials) > 10


class TestWarmStart:
    """The earlier study is of another fidelity: all its values are 1 higher, its best points are the same."""

    @pytest.fixture
    def earlier(self) -> optuna.Study:
        study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, seed=0))
        study.optimize(lambda trial: bowl(trial) + 1.0, n_trials=40)
        return study

    def test_as_is_begins_at_the_earlier_best(self, earlier: optuna.Study) -> None:
        study = studied(lambda trial: bowl(trial) + 1.0, 10, warm_start=earlier)
        assert study.trials[0].system_attrs[NOTE]["open"]["start"] == pytest.approx(list(earlier.best_params.values()))
        assert study.best_value < 1.001
        known = {tuple(trial.params.items()) for trial in earlier.trials}
        assert not known & {tuple(trial.params.items()) for trial in study.trials}

    def test_shifted_evaluates_the_best_again_and_goes_on_from_there(self, earlier: optuna.Study) -> None:
        study = studied(bowl, 20, warm_start=earlier.trials, warm_start_values="shifted")
        best = sorted(earlier.trials, key=lambda trial: trial.value or 9)[:4]
        assert [trial.params for trial in study.trials[:4]] == [trial.params for trial in best]
        assert study.best_value < earlier.best_value - 1.0 + 1e-12
        assert study.best_value == pytest.approx(0.0, abs=1e-3)

    def test_another_space_takes_what_lies_inside(self, earlier: optuna.Study) -> None:
        space = {**UNIT, "x": FloatDistribution(0.0, 0.5)}
        study = studied(
            lambda trial: (trial.suggest_float("x", 0, 0.5) - 0.8) ** 2 + trial.suggest_float("y", 0, 1),
            15,
            search_space=space,
            warm_start=earlier,
        )
        assert len(study.trials) == 15

    def test_another_direction_is_refused(self, earlier: optuna.Study) -> None:
        study = optuna.create_study(direction="maximize", sampler=MadsSampler(search_space=UNIT, warm_start=earlier))
        with pytest.raises(ValueError, match="other directions"):
            study.ask(UNIT)

    def test_shifted_is_for_one_objective(self, earlier: optuna.Study) -> None:
        two = optuna.create_study(directions=["minimize"] * 2)
        values = [0.1, 0.2]
        two.add_trial(create_trial(params={"x": 0.1, "y": 0.2}, distributions=dict(UNIT), values=values))
        with pytest.raises(ValueError, match="only `as_is`"):
            studied(lambda trial: (bowl(trial), 0.0), 3, 2, warm_start=two, warm_start_values="shifted")


class TestPointsFromElsewhere:
    def test_an_enqueued_trial_takes_no_point_of_the_block(self) -> None:
        study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, block_size=4, seed=0))
        study.enqueue_trial({"x": 0.1, "y": 0.1})
        study.enqueue_trial({"x": 0.9})
        study.optimize(bowl, n_trials=6)
        assert study.trials[0].params == {"x": 0.1, "y": 0.1}
        assert study.trials[1].params["x"] == 0.9
        assert ["slot" in trial.system_attrs.get(NOTE, {}) for trial in study.trials] == [False] * 2 + [True] * 4

    def test_a_better_one_is_where_the_search_goes_on(self) -> None:
        study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, seed=0))
        study.optimize(bowl, n_trials=6)
        study.enqueue_trial({"x": 0.8001, "y": 0.7001})
        study.optimize(bowl, n_trials=4)
        opened = [t.system_attrs[NOTE]["open"] for t in study.trials[7:] if "open" in t.system_attrs.get(NOTE, {})]
        assert opened[0]["start"] == pytest.approx([0.8001, 0.7001])

    @pytest.mark.filterwarnings("ignore:.*experimental")
    @pytest.mark.parametrize("number", [0, 3])
    def test_a_trial_that_optuna_retries(self, number: int) -> None:
        """It is a copy, the sampler's note with it: of the first trial of a segment, and of one inside."""
        study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, n_startup=0, seed=0))
        study.optimize(bowl, n_trials=number)
        failed = study.ask(UNIT)
        study.tell(failed, state=TrialState.FAIL)
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[-1])
        study.optimize(bowl, n_trials=4)
        study.sampler = MadsSampler(search_space=UNIT, n_startup=0, seed=0)
        study.optimize(bowl, n_trials=4)
        assert study.trials[number + 1].params == failed.params
        assert len({tuple(trial.params.items()) for trial in study.trials}) == len(study.trials) - 1

    def test_trials_that_were_copied_from_another_study(self) -> None:
        other = studied(bowl, 20, seed=0)
        study = studied(bowl, 3)
        study.add_trials(other.trials)
        study.optimize(bowl, n_trials=10)
        study.sampler = MadsSampler(search_space=UNIT, seed=1)
        study.optimize(bowl, n_trials=10)
        assert study.best_value <= other.best_value
        assert all("slot" in trial.system_attrs[NOTE] for trial in study.trials[23:])

    def test_added_trials_are_known_before_anything_is_asked(self) -> None:
        study = optuna.create_study()
        for x in (0.1, 0.4, 0.9):
            study.add_trial(create_trial(params={"x": x, "y": 0.5}, distributions=dict(UNIT), value=x))
        sampler = MadsSampler(search_space=UNIT, seed=0)
        assert sampler.available(study) == 1
        sampler.close()

    def test_a_trial_that_evaluates_another_point_gives_its_own_back(self) -> None:
        """An objective that narrows a range: the lent point is lent again, and no wrong answer is told."""
        sampler = MadsSampler(search_space=UNIT, block_size=4, seed=0)
        study = optuna.create_study(sampler=sampler)
        lent = study.ask(UNIT)
        first = dict(lent.params)
        study.tell(lent, 0.5)
        other = study.ask()  # it will say other bounds than the space has
        moved = other.suggest_float("x", 2.0, 3.0), other.suggest_float("y", 0.0, 1.0)
        study.tell(other, 0.1)
        again = study.ask(UNIT)
        assert moved[0] >= 2.0
        notes = [study.trials[trial.number].system_attrs[NOTE] for trial in (other, again)]
        assert notes[0]["point"] == notes[1]["point"]
        assert notes[0]["slot"] == notes[1]["slot"]
        assert again.params != first
        sampler.close()

    def test_a_trial_that_fails_before_it_asks_gives_its_point_back(self) -> None:
        def objective(trial: optuna.Trial) -> float:
            if trial.number == 1:
                raise ValueError
            return bowl(trial)

        study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, block_size=4, seed=0))
        study.optimize(objective, n_trials=4, catch=(ValueError,))
        slots = [trial.system_attrs[NOTE]["slot"] for trial in study.trials if NOTE in trial.system_attrs]
        assert slots == [0, 1, 2]

    @pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
    def test_fixed_parameters(self) -> None:
        sampler = MadsSampler(search_space=UNIT, seed=0)
        study = optuna.create_study(sampler=PartialFixedSampler({"x": 0.8}, sampler))
        study.optimize(bowl, n_trials=25)
        assert all(trial.params["x"] == 0.8 for trial in study.trials)
        assert study.best_value < 1e-3
        assert len({trial.params["y"] for trial in study.trials}) == 25

    @pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
    @pytest.mark.parametrize("given", [True, False])
    def test_parameters_fixed_after_a_free_search(self, given: bool) -> None:
        """As in Optuna's own example; what y is best depends on x, so values at another x say nothing."""

        def objective(trial: optuna.Trial) -> float:
            x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
            return (y - x) ** 2 + (x - 0.8) ** 2

        sampler = MadsSampler(search_space=UNIT if given else None, seed=0)
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=20)
        for x in (0.2, 0.4):
            study.sampler = PartialFixedSampler({"x": x}, sampler)
            study.optimize(objective, n_trials=20)
            late = study.trials[-20:]
            assert all(trial.params["x"] == x for trial in late)
            assert min(abs(trial.params["y"] - x) for trial in late) < 0.01

    @pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
    def test_fixed_parameters_of_a_finite_space(self) -> None:
        space: dict[str, BaseDistribution] = {"a": IntDistribution(0, 9), "b": IntDistribution(0, 5)}
        sampler = MadsSampler(search_space=space, seed=0)
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda trial: trial.suggest_int("a", 0, 9) + trial.suggest_int("b", 0, 5), n_trials=30)
        before = sum(trial.params["a"] == 7 for trial in study.trials)
        study.sampler = PartialFixedSampler({"a": 7}, sampler)
        study.optimize(lambda trial: trial.suggest_int("a", 0, 9) + trial.suggest_int("b", 0, 5), n_trials=30)
        assert sorted(t.params["b"] for t in study.trials if t.params["a"] == 7) == list(range(6))
        assert len(study.trials) == 36 - before


def test_the_space_is_inferred_and_the_rest_is_sampled_beside_it(caplog: pytest.LogCaptureFixture) -> None:
    def objective(trial: optuna.Trial) -> float:
        extra = trial.suggest_float("extra", 0, 1) if trial.number % 2 else 0.0
        return bowl(trial) + extra

    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            study = optuna.create_study(sampler=MadsSampler(seed=0))
            study.optimize(objective, n_trials=10)
    finally:
        optuna.logging.disable_propagation()
    assert NOTE not in study.trials[0].system_attrs
    assert all(NOTE in trial.system_attrs for trial in study.trials[1:])
    said = [r.getMessage() for r in caplog.records if "sampled independently" in r.getMessage()]
    assert len(said) == 5
    assert all("`extra`" in text and "RandomSampler" in text for text in said)


def test_what_is_common_may_be_exhausted_before_the_rest() -> None:
    """Branches with two common points: these are then proposed by TPE, and no longer evenly."""

    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("branch", ["a", "b"]) == "a":
            return trial.suggest_float("u", 0, 1)
        return 5.0 + trial.suggest_float("v", 0, 1)

    study = optuna.create_study(sampler=MadsSampler(seed=0, warn_independent_sampling=False))
    study.optimize(objective, n_trials=40)
    assert sum(trial.params["branch"] == "a" for trial in study.trials) > 25


def test_a_finite_study_stops_when_every_point_has_a_trial() -> None:
    space: dict[str, BaseDistribution] = {"n": IntDistribution(0, 4), "c": CategoricalDistribution("ab")}
    study = optuna.create_study(sampler=MadsSampler(search_space=space, seed=0))
    study.optimize(lambda trial: trial.suggest_int("n", 0, 4) + len(trial.suggest_categorical("c", "ab")), n_trials=99)
    assert len(study.trials) == 10


def test_only_one_variable_is_free() -> None:
    space: dict[str, BaseDistribution] = {"n": IntDistribution(3, 3), "c": CategoricalDistribution("a")}
    study = optuna.create_study(
        sampler=MadsSampler(search_space={**space, **UNIT, "y": FloatDistribution(1, 1)}, seed=0)
    )
    for _ in range(12):
        trial = study.ask({**space, "x": UNIT["x"], "y": FloatDistribution(1, 1)})
        study.tell(trial, (trial.params["x"] - 0.3) ** 2)
    assert study.best_value < 0.01


def test_blocks_are_as_wide_as_trials_run_at_once() -> None:
    study = optuna.create_study(sampler=MadsSampler(search_space=UNIT, seed=0))
    for _ in range(6):
        for trial in [study.ask(UNIT) for _ in range(5)]:
            study.tell(trial, trial.params["x"])
    opened = [t.system_attrs[NOTE]["open"] for t in study.trials if "open" in t.system_attrs.get(NOTE, {})]
    assert [definition["block_size"] for definition in opened[1:2]] == [5]


def test_one_sampler_for_two_studies_of_one_name() -> None:
    sampler = MadsSampler(search_space=UNIT, seed=0)
    studies = [optuna.create_study(study_name="same", sampler=sampler) for _ in range(2)]
    for study in studies:
        study.optimize(bowl, n_trials=10)
    assert [trial.params for trial in studies[0].trials] == [trial.params for trial in studies[1].trials]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"block_size": 0}, "block_size is 0"),
        ({"n_startup": -1}, "n_startup is -1"),
        ({"hidden_constraints": "diverged"}, r"a list of names: \['diverged'\]"),
        ({"barrier": "soft"}, "allowed are 'progressive' and 'extreme'"),
        ({"warm_start_values": "scaled"}, "allowed are 'as_is' and 'shifted'"),
        ({"x0": {"z": 1}, "search_space": UNIT}, "'z', which is not in the search space"),
        ({"x0": {"x": 7}, "search_space": UNIT}, "outside FloatDistribution"),
        ({"nomad_options": {"SEED": 3}}, "give `seed`"),
        ({"nomad_options": {"max_bb_eval": 3}}, "n_trials"),
        ({"nomad_options": ["VNS_MADS_SEARCH"]}, "parameters by name"),
        ({"nomad_options": {"VNS_MADS_SEARCH": True}, "block_size": 4}, "no VNS_MADS_SEARCH of blocks"),
        ({"n_startup": 2.5}, "a whole number"),
    ],
)
def test_what_is_not_allowed_is_said_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MadsSampler(**given)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"VNS_SEARCH": True}, "Unknown parameter: VNS_SEARCH"), ({"VNS_MADS_SEARCH": 17}, "exit code -11")],
)
def test_nomads_own_refusals_come_with_its_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(SamplerError, match=words):
        studied(bowl, 8, nomad_options=options)


def test_nomad_options_are_passed_on() -> None:
    plain = studied(bowl, 20)
    other = studied(bowl, 20, nomad_options={"VNS_MADS_SEARCH": True, "QUAD_MODEL_SEARCH": False})
    assert plain.trials[0].params == other.trials[0].params
    assert [t.params for t in plain.trials] != [t.params for t in other.trials]


def test_no_point_twice_though_many_coordinates_decode_to_one() -> None:
    space: dict[str, BaseDistribution] = {"n": IntDistribution(1, 40, log=True), "m": IntDistribution(1, 6)}
    study = optuna.create_study(sampler=MadsSampler(search_space=space, seed=0))
    study.optimize(
        lambda trial: abs(trial.suggest_int("n", 1, 40, log=True) - 7) + trial.suggest_int("m", 1, 6), n_trials=30
    )
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 30


def test_a_narrow_range_is_searched_as_finely_as_a_wide_one() -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1e-8)}
    study = optuna.create_study(sampler=MadsSampler(search_space=space, seed=0))
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1e-8) * 1e8 - 0.333) ** 2, n_trials=40)
    assert study.best_params["x"] == pytest.approx(0.333e-8, rel=1e-3)
    assert len({trial.params["x"] for trial in study.trials}) == 40


def test_pruned_by_optuna_and_timeouts_leave_no_block_waiting() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = bowl(trial)
        for step in itertools.count():
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
            if step == 3:
                return value
        raise AssertionError

    study = optuna.create_study(
        sampler=MadsSampler(search_space=UNIT, block_size=4, seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
    )
    study.optimize(objective, timeout=0.5)
    before = len(study.trials)
    study.optimize(objective, n_trials=20)
    assert any(trial.state is TrialState.PRUNED for trial in study.trials)
    assert all("slot" in trial.system_attrs[NOTE] for trial in study.trials[before:])
