"""MADS whose blocks are filled by the Gaussian process: whole blocks, exact resume, and who takes up what."""

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

from meshtune.samplers import MadsSampler
from meshtune.samplers.gp.observations import NOTE as MODEL
from meshtune.samplers.interface import Sampler
from meshtune.samplers.ledger import NOTE
from meshtune.testing.samplers import MIXED, SamplerContract, Space, answer_all, points, search
from tests.samplers import stories

X0 = {"rank_log2": 3, "scale": 2.0, "learning_rate": 1e-5, "kind": "a"}
SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution((False, True)),
    "rank": IntDistribution(4, 512, log=True),
    "rate": FloatDistribution(1e-6, 1e-3, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.125),
}


class TestFilledByBatchGP(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        return MadsSampler(search_space=space, x0=X0, block_size=block_size, fill="batch-gp", seed=seed)


class TestFilledByTPE(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        return MadsSampler(search_space=space, x0=X0, block_size=block_size, fill="tpe", seed=seed)


class TestSearchStep(SamplerContract):
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        least = block_size // 2
        return MadsSampler(
            search_space=space, x0=X0, block_size=block_size, fill="batch-gp", least_fills=least, seed=seed
        )


@pytest.mark.parametrize("least", [0, 3])
def test_every_block_is_whole(least: int) -> None:
    study = optuna.create_study()
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=6, fill="batch-gp", least_fills=least, seed=0)
    study.sampler = sampler
    for block in range(6):
        assert sampler.available(study) == 6
        numbers = [study.ask(dict(MIXED)).number for _ in range(6)]
        notes = [study.trials[number].system_attrs[NOTE] for number in numbers]
        assert len({(note["segment"], note["block"]) for note in notes}) == 1
        fills = [number for number, note in zip(numbers, notes, strict=True) if "fill" in note]
        assert len(fills) >= (least if block else 0)  # the first one is MADS's opening
        assert all(MODEL in study.trials[number].system_attrs for number in fills)
        answer_all(study)
    sampler.close()
    assert len({str(point) for point in points(study)}) == len(study.trials)


def test_a_block_waits_for_its_fills_but_not_for_others() -> None:
    study = optuna.create_study()
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=4, fill="batch-gp", least_fills=1, seed=0)
    search(study, sampler, MIXED, 4)
    asked = [study.ask(dict(MIXED)) for _ in range(5)]
    for trial in asked[:3]:
        study.tell(trial, 1.0)
    assert "segment" in study.trials[asked[3].number].system_attrs[NOTE]
    assert sampler.available(study) == 0
    study.tell(asked[3], 1.0)
    assert "segment" not in study.trials[asked[4].number].system_attrs[NOTE]
    assert sampler.available(study) == 4
    sampler.close()


def test_mads_goes_on_from_a_better_fill() -> None:
    """A run of NOMAD begins at what a fill has found."""
    study = optuna.create_study()
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=4, fill="batch-gp", least_fills=1, seed=0)
    search(study, sampler, MIXED, 4)
    values = iter([3.0, 3.0, 3.0, -1.0])
    search(study, sampler, MIXED, 8, lambda *_: next(values))
    assert "fill" in study.trials[7].system_attrs[NOTE]
    study.ask(dict(MIXED))
    definition = study.trials[8].system_attrs[NOTE]["open"]
    assert definition["start"] == pytest.approx(study.trials[7].system_attrs[NOTE]["point"], abs=1e-8)
    sampler.close()


def test_another_fill_begins_a_new_segment() -> None:
    study = search(
        optuna.create_study(), first := MadsSampler(search_space=MIXED, x0=X0, block_size=4, seed=0), MIXED, 12
    )
    first.close()
    sampler = MadsSampler(search_space=MIXED, x0=X0, block_size=4, fill="batch-gp", seed=0)
    search(study, sampler, MIXED, 14)
    sampler.close()
    assert study.trials[12].system_attrs[NOTE]["open"]["fill"] == {"by": "batch-gp", "least": 0}


@pytest.mark.parametrize("block_size", [1, 4])
def test_every_point_of_a_finite_space_once(block_size: int) -> None:
    space: Space = {"a": IntDistribution(0, 4), "b": CategoricalDistribution("xy"), "c": IntDistribution(2, 8, step=2)}
    sampler = MadsSampler(search_space=space, block_size=block_size, fill="batch-gp", seed=0)
    study = search(optuna.create_study(), sampler, space, 200, lambda _, p: float(p["a"]))
    assert sampler.available(study) == 0
    sampler.close()
    assert len(study.trials) == len({tuple(p.items()) for p in points(study)}) == 40


def test_what_is_not_allowed_is_no_fill() -> None:
    space: Space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
    sampler = MadsSampler(
        search_space=space, block_size=4, fill="batch-gp", least_fills=2, a_priori=lambda p: p["x"] < 0.5, seed=0
    )
    study = search(optuna.create_study(), sampler, space, 24, lambda _, p: -float(p["x"] + p["y"]))
    sampler.close()
    assert all(point["x"] < 0.5 for point in points(study))
    assert study.best_value < -1.3


def test_one_objective_only() -> None:
    study = optuna.create_study(directions=["minimize"] * 2)
    study.sampler = MadsSampler(search_space=MIXED, block_size=4, fill="batch-gp", seed=0)
    with pytest.raises(ValueError, match="for one objective"):
        study.ask(dict(MIXED))
    study.sampler = sampler = MadsSampler(search_space=MIXED, block_size=4, fill="tpe", seed=0)
    assert sampler.available(study) == 4
    sampler.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fill": "gp"}, "'batch-gp' and 'tpe'|'batch-gp'"),
        ({"least_fills": 2, "block_size": 4}, "needs a `fill`"),
        ({"fill": "batch-gp", "least_fills": 4, "block_size": 4}, "larger"),
        ({"fill": "batch-gp", "least_fills": -1, "block_size": 4}, "at least 0"),
    ],
)
def test_faults(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MadsSampler(**given)


# -- exact resume

TOTAL = 28


@dataclass(frozen=True)
class Story:
    """What happens in a study: `kills` are numbers of trials after which the sampler is replaced by a fresh one."""

    block_size: int
    later_block_size: int
    least: int
    fill: Literal["batch-gp", "tpe"]
    seed: int
    constrained: bool
    fails: int
    enqueue: tuple[int, ...]
    kills: tuple[int, ...]

    def sampler(self, number: int) -> MadsSampler:
        size = self.block_size if number < stories.CHANGED else self.later_block_size
        least = min(self.least, size - 1)
        return MadsSampler(search_space=SPACE, block_size=size, fill=self.fill, least_fills=least, seed=self.seed)


def judge(story: Story, trial: optuna.Trial) -> None:
    study, number, params = trial.study, trial.number, trial.params
    if story.fails and number % story.fails == story.fails - 1:
        study.tell(trial, state=TrialState.FAIL if number % 2 else TrialState.PRUNED)
        return
    if story.constrained:
        trial.set_constraint("cost", params["rank"] / 100 - 1)
    loss = abs(params["rank"] - 60) / 100 + params["step"] + abs(params["rate"] - 3e-4) * 1e3
    study.tell(trial, loss + (0.0 if params["kind"] else 0.1))


def play(story: Story, kills: tuple[int, ...], storage: str | None = None) -> list[dict[str, Any]]:
    return stories.play(
        story.sampler,
        partial(judge, story),
        space=SPACE,
        directions=["minimize"],
        total=TOTAL,
        enqueue=story.enqueue,
        kills=kills,
        storage=storage,
    )


drawn = st.builds(
    Story,
    block_size=stories.block_sizes,
    later_block_size=stories.block_sizes,
    least=st.integers(0, 4),
    fill=st.sampled_from(["batch-gp", "batch-gp", "tpe"]),
    seed=st.integers(0, 10**9),
    constrained=st.booleans(),
    fails=st.sampled_from([0, 3, 7]),
    enqueue=stories.numbers(TOTAL, most=2),
    kills=stories.numbers(TOTAL, least=1, most=4),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(drawn)
def test_the_same_continuation_after_any_kill(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn)
def test_the_same_continuation_after_any_kill_in_many_stories(story: Story) -> None:
    assert play(story, story.kills) == play(story, ())


def test_the_same_continuation_out_of_a_database(tmp_path: Path) -> None:
    story = Story(8, 8, 3, "batch-gp", 7, True, 5, (9,), (10, 14, 21))
    assert play(story, story.kills, f"sqlite:///{tmp_path}/story.db") == play(story, ())
