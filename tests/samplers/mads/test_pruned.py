"""What MADS takes a pruned trial for: a failure, or the value that stands on it."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.samplers import MadsSampler
from meshtune.samplers.outcomes import Pruned, TrialReader

SPACE = {"x": FloatDistribution(-1.0, 1.0), "y": FloatDistribution(-1.0, 1.0)}
DIRECTIONS = (optuna.study.StudyDirection.MINIMIZE,)


def pruned(value: float | None) -> FrozenTrial:
    return create_trial(state=TrialState.PRUNED, value=value, params={"x": 0.0, "y": 0.0}, distributions=dict(SPACE))


@pytest.mark.parametrize(
    ("how", "value", "told"), [("failed", 3.0, None), ("value", 3.0, (3.0,)), ("value", None, None)]
)
def test_a_pruned_trial_is_told_as_asked(how: Pruned, value: float | None, told: tuple[float, ...] | None) -> None:
    assert TrialReader(DIRECTIONS, pruned=how).outputs(pruned(value)) == told


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="pruned is 'best'; allowed are 'failed' and 'value'"):
        MadsSampler(pruned="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["failed", "value"])
def test_a_search_in_which_most_trials_are_pruned_finds_the_minimum(how: Pruned) -> None:
    study = optuna.create_study(sampler=MadsSampler(search_space=SPACE, seed=1, pruned=how))

    def objective(trial: optuna.Trial) -> float:
        loss = (trial.suggest_float("x", -1, 1) - 0.3) ** 2 + (trial.suggest_float("y", -1, 1) + 0.2) ** 2
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if complete and loss > study.best_value:
            trial.report(loss, 1)
            raise optuna.TrialPruned
        return loss

    study.optimize(objective, n_trials=80)
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.PRUNED) > 40
    assert study.best_value < 1e-2


def test_another_word_on_resume_opens_a_new_segment() -> None:
    study = optuna.create_study()
    for how in ("failed", "value"):
        sampler = MadsSampler(search_space=SPACE, seed=1, pruned=how)  # type: ignore[arg-type]
        study.sampler = sampler
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_float("y", -1, 1), n_trials=8)
        sampler.close()
    opened = [trial.system_attrs["mads"]["open"] for trial in study.trials if "open" in trial.system_attrs["mads"]]
    assert {definition.get("pruned") for definition in opened} == {None, "value"}
