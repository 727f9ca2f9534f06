"""Exact resume of BatchGPSampler: whatever happens in a study, a fresh sampler goes on as the one that was killed."""

import copy
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.samplers import BatchGPSampler
from tests.samplers import stories

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
        size = self.block_size if number < stories.CHANGED else self.later_block_size
        return BatchGPSampler(SPACE, block_size=size, seed=self.seed, pruned=self.pruned)  # type: ignore[arg-type]


def judge(story: Story, trial: optuna.Trial) -> None:
    study, number, params = trial.study, trial.number, trial.params
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
    return stories.play(
        story.sampler,
        partial(judge, story),
        space=SPACE,
        directions=[story.direction],
        total=TOTAL,
        enqueue=story.enqueue,
        kills=kills,
        storage=storage,
    )


drawn = st.builds(
    Story,
    block_size=stories.block_sizes,
    later_block_size=stories.block_sizes,
    seed=st.integers(0, 10**9),
    direction=st.sampled_from(["minimize", "maximize"]),
    constrained=st.booleans(),
    fails=st.sampled_from([0, 3, 7]),
    pruned=st.sampled_from(["failed", "value", "left_out"]),
    enqueue=stories.numbers(TOTAL, most=2),
    kills=stories.numbers(TOTAL, least=1, most=4),
)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(drawn)
def test_the_same_continuation_after_any_kill(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn)
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
