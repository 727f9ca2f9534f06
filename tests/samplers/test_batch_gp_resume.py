"""Exact resume of BatchGPSampler: whatever happens in a study, a fresh sampler goes on as the one that was killed."""

import copy
import itertools
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.samplers import BatchGPSampler

SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution((False, True)),
    "rank": IntDistribution(4, 512, log=True),
    "alpha": IntDistribution(1, 100),
    "rate": FloatDistribution(1e-6, 1e-3, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.125),
}
TOTAL = 28


@dataclass(frozen=True)
class Story:
    """What happens in a study: `kills` are numbers of trials after which the sampler is replaced by a fresh one."""

    block_size: int
    later_block_size: int
    seed: int
    direction: Literal["minimize", "maximize"]
    constrained: bool
    fails: int
    pruned: str
    enqueue: tuple[int, ...]
    kills: tuple[int, ...]

    def sampler(self, number: int) -> BatchGPSampler:
        size = self.block_size if number < 16 else self.later_block_size
        return BatchGPSampler(SPACE, block_size=size, seed=self.seed, pruned=self.pruned)  # type: ignore[arg-type]


def judge(story: Story, trial: optuna.Trial, params: Mapping[str, Any]) -> None:
    study, number = trial.study, trial.number
    if story.fails and number % story.fails == story.fails - 1:
        trial.report(number / TOTAL, 1)  # where it is pruned, Optuna makes this its value
        study.tell(trial, state=TrialState.FAIL if number % 2 else TrialState.PRUNED)
        return
    if story.constrained:
        trial.set_constraint("cost", params["rank"] / 100 - 1)
        trial.set_constraint("other", 0.2 - params["step"])
    loss = abs(params["rank"] - 60) / 100 + params["step"] + abs(params["rate"] - 3e-4) * 1e3 - params["alpha"] / 200
    loss += 0.0 if params["kind"] else 0.1
    study.tell(trial, -loss if story.direction == "maximize" else loss)


def play(story: Story, kills: tuple[int, ...], storage: str | None = None) -> list[dict[str, Any]]:
    """The points of the study; the sampler is replaced after the trials in `kills`, and before trial 16 in any case.

    In a `storage` the study is loaded anew, too.
    """
    study = optuna.create_study(direction=story.direction, storage=storage, study_name="story")
    sampler = story.sampler(0)
    pending: list[int] = []
    for number in itertools.count():
        if number in kills or number == 16:
            sampler.close()
            sampler = story.sampler(number)
            if storage is not None:
                study = optuna.load_study(study_name="story", storage=storage)
        if number == TOTAL:
            break
        if number in story.enqueue:
            study.enqueue_trial(
                {"kind": True, "rank": 60 + number, "rate": 1e-4, **({"step": 0.25} if number % 2 else {})}
            )
        study.sampler = sampler
        if sampler.available(study) == 0:
            assert pending, "neither a point nor anything to wait for"
            for waiting in pending:
                trial = optuna.Trial(study, study.trials[waiting]._trial_id)
                judge(story, trial, trial.params)
            pending.clear()
            assert sampler.available(study) > 0
        pending.append(study.ask(SPACE).number)
    return [trial.params for trial in study.trials]


stories = st.builds(
    Story,
    block_size=st.sampled_from([1, 3, 8]),
    later_block_size=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 10**9),
    direction=st.sampled_from(["minimize", "maximize"]),
    constrained=st.booleans(),
    fails=st.sampled_from([0, 3, 7]),
    pruned=st.sampled_from(["failed", "value", "left_out"]),
    enqueue=st.sets(st.integers(1, TOTAL - 1), max_size=2).map(lambda s: tuple(sorted(s))),
    kills=st.sets(st.integers(1, TOTAL - 1), min_size=1, max_size=4).map(lambda s: tuple(sorted(s))),
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(stories)
def test_the_same_continuation_after_any_kill(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stories)
def test_the_same_continuation_after_any_kill_in_many_stories(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


def test_the_same_continuation_out_of_a_database(tmp_path: Path) -> None:
    story = Story(4, 4, 5, "minimize", True, 7, "failed", (9,), (10, 14, 21))
    assert play(story, story.kills, f"sqlite:///{tmp_path}/story.db") == play(story, ())


@pytest.mark.parametrize("how", ["copy", "pickle"])
def test_sampler_and_study_survive_copy_and_pickle(how: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        return float(trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("n", 1, 100, log=True) / 100)

    study = optuna.create_study(sampler=BatchGPSampler(seed=3))
    study.optimize(objective, n_trials=12)
    other = copy.deepcopy(study) if how == "copy" else pickle.loads(pickle.dumps(study))
    study.optimize(objective, n_trials=4)
    other.optimize(objective, n_trials=4)
    assert [trial.params for trial in other.trials] == [trial.params for trial in study.trials]
