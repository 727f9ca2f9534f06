"""Exact resume: whatever happens in a study, a fresh sampler goes on as the one that was killed would have."""

import copy
import pickle
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.samplers import MadsSampler
from meshtune.samplers.mads.ledger import NOTE
from tests.samplers import stories

SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution((False, True)),
    "rank": IntDistribution(4, 512, log=True),
    "rate": FloatDistribution(1e-6, 1e-3, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.125),
}
TOTAL = 32


@dataclass(frozen=True)
class Story:
    """What happens in a study: `kills` are numbers of trials after which the sampler is replaced by a fresh one."""

    block_size: int
    later_block_size: int
    seed: int
    objectives: int
    constrained: bool
    barrier: str
    fails: int
    pruned: str
    enqueue: tuple[int, ...]
    kills: tuple[int, ...]

    def sampler(self, number: int) -> MadsSampler:
        size = self.block_size if number < stories.CHANGED else self.later_block_size
        return MadsSampler(
            search_space=SPACE,
            block_size=size,
            seed=self.seed,
            barrier=self.barrier,  # type: ignore[arg-type]
            pruned=self.pruned,  # type: ignore[arg-type]
            a_priori=lambda params: params["rank"] * params["step"] < 400,
        )


def judge(story: Story, trial: optuna.Trial) -> None:
    study, number, params = trial.study, trial.number, trial.params
    if story.fails and number % story.fails == story.fails - 1:
        if story.objectives == 1:
            trial.report(number / TOTAL, 1)  # where it is pruned, Optuna makes this its value
        study.tell(trial, state=TrialState.FAIL if number % 2 else TrialState.PRUNED)
        return
    x = abs(params["rank"] - 60) / 100 + params["step"]
    y = abs(params["rate"] - 3e-4) * 1e3 + (0.0 if params["kind"] else 0.1)
    if story.constrained:
        trial.set_constraint("cost", params["rank"] / 100 - 1)
        trial.set_constraint("other", 0.2 - params["step"])
    study.tell(trial, [x + y, (x - 1) ** 2 + y][: story.objectives])


def play(story: Story, kills: tuple[int, ...]) -> list[dict[str, Any]]:
    return stories.play(
        story.sampler,
        partial(judge, story),
        space=SPACE,
        directions=["minimize"] * story.objectives,
        total=TOTAL,
        enqueue=story.enqueue,
        kills=kills,
    )


drawn = st.builds(
    Story,
    block_size=stories.block_sizes,
    later_block_size=stories.block_sizes,
    seed=st.integers(0, 10**9),
    objectives=st.sampled_from([1, 2]),
    constrained=st.booleans(),
    barrier=st.sampled_from(["progressive", "extreme"]),
    fails=st.sampled_from([0, 3, 7]),
    pruned=st.sampled_from(["failed", "value"]),
    enqueue=stories.numbers(TOTAL, most=2),
    kills=stories.numbers(TOTAL, least=1, most=4),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(drawn)
def test_the_same_continuation_after_any_kill(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn)
def test_the_same_continuation_after_any_kill_in_many_stories(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


@pytest.mark.parametrize("how", ["copy", "pickle"])
def test_sampler_and_study_survive_copy_and_pickle(how: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        return float(trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("n", 1, 100, log=True) / 100)

    study = optuna.create_study(sampler=MadsSampler(seed=3))
    study.optimize(objective, n_trials=15)
    other = copy.deepcopy(study) if how == "copy" else pickle.loads(pickle.dumps(study))
    study.optimize(objective, n_trials=15)
    other.optimize(objective, n_trials=15)
    assert [trial.params for trial in other.trials] == [trial.params for trial in study.trials]
    assert sum(NOTE in trial.system_attrs for trial in other.trials) == 29
