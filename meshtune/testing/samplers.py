"""The contract of a sampler (`meshtune.samplers.interface.Sampler`): blocks, and an exact continuation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from meshtune.samplers.interface import Sampler

Space = Mapping[str, BaseDistribution]
Judge = Callable[[int, Mapping[str, Any]], "float | TrialState"]

MIXED: Space = {
    "rank_log2": IntDistribution(2, 9),
    "scale": FloatDistribution(-2.0, 5.0),
    "learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "kind": CategoricalDistribution(("a", "b", "c")),
    "fixed": IntDistribution(3, 3),
}


def valley(number: int, params: Mapping[str, Any]) -> float | TrialState:
    """A smooth valley; every seventh trial fails."""
    if number % 7 == 5:
        return TrialState.FAIL
    rate = math.log10(params["learning_rate"]) + 3.7
    kind = 0.0 if params["kind"] == "b" else 0.1
    return float((params["rank_log2"] - 6) ** 2 / 10 + (params["scale"] - 2) ** 2 / 9 + rate**2 + kind)


def search(
    study: optuna.Study, sampler: Sampler, space: Space, total: int, judge: Judge = valley, *, answer_rest: bool = True
) -> optuna.Study:
    """Run a study to `total` trials as the loop does: propose whole blocks, then answer them."""
    study.sampler = sampler
    while len(study.trials) < total:
        count = min(sampler.available(study), total - len(study.trials))
        for _ in range(count):
            study.ask(dict(space))
        if count == 0 and not answer_all(study, judge):
            break
    if answer_rest:
        answer_all(study, judge)
    return study


def answer_all(study: optuna.Study, judge: Judge = valley) -> int:
    """Answer all pending trials; returns how many there were."""
    pending = study.get_trials(states=(TrialState.RUNNING,))
    for trial in pending:
        answer = judge(trial.number, trial.params)
        if isinstance(answer, TrialState):
            study.tell(trial.number, state=answer)
        else:
            study.tell(trial.number, answer)
    return len(pending)


def points(study: optuna.Study) -> list[dict[str, Any]]:
    """The points of all trials in order."""
    return [trial.params for trial in study.get_trials(deepcopy=False)]


class SamplerContract(ABC):
    """Subclass it and make a sampler; set `block_sizes` to what it supports."""

    block_sizes: ClassVar[tuple[int, ...]] = (1, 4)

    @abstractmethod
    def make(self, space: Space, block_size: int, seed: int) -> Sampler:
        """A fresh sampler."""

    @pytest.mark.parametrize("block_size", [1, 4])
    def test_a_fresh_sampler_continues_exactly(self, block_size: int) -> None:
        """Cut after any trial, also inside a block: the continuation is that of an uninterrupted study."""
        whole = optuna.create_study()
        sampler = self.make(MIXED, block_size, 3)
        search(whole, sampler, MIXED, 18)
        sampler.close()
        for cut in (1, 6, 11):
            study = optuna.create_study()
            sampler = self.make(MIXED, block_size, 3)
            search(study, sampler, MIXED, cut, answer_rest=False)
            sampler.close()
            sampler = self.make(MIXED, block_size, 3)
            search(study, sampler, MIXED, 18)
            sampler.close()
            assert points(study) == points(whole), f"cut after {cut} trials"

    @pytest.mark.parametrize("block_size", [1, 4])
    def test_blocks_do_not_wait_inside_and_wait_between(self, block_size: int) -> None:
        """At most `block_size` points at once; none more before they are answered."""
        study = optuna.create_study()
        sampler = self.make(MIXED, block_size, 0)
        study.sampler = sampler
        for _ in range(5):
            count = sampler.available(study)
            assert 1 <= count <= block_size
            for left in range(count, 0, -1):
                assert sampler.available(study) == left
                study.ask(dict(MIXED))
            assert sampler.available(study) == 0
            answer_all(study)
        sampler.close()

    def test_seeds_differ_and_repeat(self) -> None:
        """The same seed gives the same points, another seed others."""
        runs = []
        for seed in (1, 1, 2):
            sampler = self.make(MIXED, 4, seed)
            runs.append(points(search(optuna.create_study(), sampler, MIXED, 12)))
            sampler.close()
        assert runs[0] == runs[1] != runs[2]

    def test_all_trials_may_fail(self) -> None:
        """A study of failures alone goes on to its end."""
        sampler = self.make(MIXED, 2, 0)
        study = search(optuna.create_study(), sampler, MIXED, 10, lambda *_: TrialState.FAIL)
        sampler.close()
        assert len(study.trials) == 10

    def test_close_twice(self) -> None:
        """Closing is always allowed."""
        sampler = self.make(MIXED, 1, 0)
        sampler.close()
        sampler.close()
