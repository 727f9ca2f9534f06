"""Optuna's own samplers, built afresh for each proposal from (seed, trial number).

So a proposal depends only on the study's trials and its number, and a resumed study continues as an uninterrupted one
would. Blocks are ranges of trial numbers: a block opens when all trials before it are told. What is known from the
start stands before the study's trials, in a copy that the built sampler sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler
from optuna.trial import FrozenTrial

from meshtune import storage
from meshtune.samplers.seam import Sampler, left_in_block
from meshtune.samplers.seeds import derived_seed

Build = Callable[[int, int], BaseSampler]  # (seed of this proposal, trial number)


def quiet(build: Build) -> Build:
    """`build` without Optuna's warnings of experimental samplers: the user has named the sampler."""

    def built(seed: int, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return build(seed, number)

    return built


@final
class RebuiltSampler(Sampler):
    """A sampler that forgets: `build(seed, number)` makes the Optuna sampler that proposes trial `number`.

    Args:
        build: makes the sampler. search_space: Optuna distributions by name. seed: the study's.
        block_size: trials that are proposed together. known: finished trials of an earlier study, which it learns from.
    """

    def __init__(
        self,
        build: Build,
        search_space: Mapping[str, BaseDistribution],
        *,
        seed: int,
        block_size: int = 1,
        known: Sequence[FrozenTrial] = (),
    ):
        self._build = build
        self._space = dict(search_space)
        self._seed = seed
        self._block_size = block_size
        self._known = tuple(known)

    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting; these samplers are never exhausted."""
        return left_in_block(study.get_trials(deepcopy=False), self._block_size)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the sampler built for this trial prepares it: some note on the trial what they will propose."""
        self._built(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, whatever the trials so far hold (Optuna's intersection would shrink it for good)."""
        return {name: distribution for name, distribution in self._space.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler built for this trial proposes."""
        return self._built(trial).sample_relative(*self._informed(study, trial), search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler built for this trial and parameter proposes."""
        built = self._built(trial, param_name)
        return built.sample_independent(*self._informed(study, trial), param_name, param_distribution)

    def close(self) -> None:
        """Nothing is held."""

    def _informed(self, study: Study, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
        """A copy of the study in which the known trials come first, and the trial's place in it."""
        if not self._known:
            return study, trial
        with storage.quiet():
            copy = optuna.create_study(directions=study.directions)
        for each in (*self._known, *study.get_trials(deepcopy=False)):
            copy._storage.create_new_trial(copy._study_id, template_trial=each)
        return copy, copy.get_trials(deepcopy=False)[len(self._known) + trial.number]

    def _built(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        return self._build(derived_seed(self._seed, trial.number, name), trial.number)


@final
class NumberedQMC(QMCSampler):
    """Optuna's QMC sampler, whose place in the sequence is the trial's number instead of a counter in the study."""

    def __init__(self, seed: int, number: int, *, qmc_type: str = "sobol"):
        super().__init__(qmc_type=qmc_type, scramble=True, seed=seed, warn_independent_sampling=False)
        self._number = number

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


@final
class NumericCmaEs(CmaEsSampler):
    """Optuna's CMA-ES, whose mean and covariance stand in the study; categories, which it cannot move, are random."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The numbers among the parameters."""
        numeric = {name: d for name, d in search_space.items() if not isinstance(d, CategoricalDistribution)}
        return super().sample_relative(study, trial, numeric)
