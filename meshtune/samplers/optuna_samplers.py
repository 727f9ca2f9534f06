"""Optuna's own samplers, built afresh for each proposal from (seed, trial number).

So a proposal depends only on the study's trials and its number, and a resumed study continues as an uninterrupted one
would. Blocks are ranges of trial numbers: a block opens when all trials before it have ended. What is known from the
start stands before the study's trials, in a copy that the built sampler sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, QMCSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from meshtune.record import storage
from meshtune.samplers.allowed import Allows, draw
from meshtune.samplers.interface import Sampler, derived_seed, left_in_block

Build = Callable[[int, int], BaseSampler]  # (seed of this proposal, trial number)
TRIES = 50  # to be given a point that is allowed, before one is drawn at random
AHEAD = 4096  # places in a sequence of points from one try to the next


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
        block_size: trials that are proposed together. earlier_trials: finished ones of another study.
        allows: says of a point whether it may be proposed. Where the sampler's is not, it is asked again with another
            seed, and after some times a random point that is allowed is taken.

    Raises SamplerError, from a proposal, where no point is found that is allowed.
    """

    learns = True

    def __init__(
        self,
        build: Build,
        search_space: Mapping[str, BaseDistribution],
        *,
        seed: int,
        block_size: int = 1,
        earlier_trials: Sequence[FrozenTrial] = (),
        allows: Allows | None = None,
    ):
        self._build = build
        self._space = dict(search_space)
        self._seed = seed
        self._block_size = block_size
        self._earlier_trials = tuple(earlier_trials)
        self._allows = allows
        self._inferred: dict[tuple[StudyDirection, ...], bool] = {}

    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting; these samplers are never exhausted."""
        return left_in_block(study.get_trials(deepcopy=False), self._block_size, asynchronous=self.asynchronous)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """As the sampler built for this trial prepares it: some note on the trial what they will propose."""
        self._built(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, whatever the trials so far hold (Optuna's intersection would shrink it for good).

        Empty where the sampler draws parameters one by one, as TPE with `multivariate: false`.
        """
        space = {name: distribution for name, distribution in self._space.items() if not distribution.single()}
        return space if self._allows is not None or self._infers(study.directions) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler built for this trial proposes."""
        informed = self._informed(study, trial)
        if self._allows is None:
            return self._together(self._built(trial), informed, search_space)
        for attempt in range(TRIES):
            point = self._whole(trial, informed, search_space, attempt)
            if self._allows(point):
                return {name: point[name] for name in search_space}
        return draw(self._space, self._allows, np.random.default_rng(derived_seed(self._seed, trial.number, "drawn")))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler built for this trial and parameter proposes."""
        built = self._built(trial, param_name)
        return built.sample_independent(*self._informed(study, trial), param_name, param_distribution)

    def close(self) -> None:
        """Nothing is held."""

    def _whole(
        self,
        trial: FrozenTrial,
        informed: tuple[Study, FrozenTrial],
        search_space: Mapping[str, BaseDistribution],
        attempt: int,
    ) -> dict[str, Any]:
        """A whole point: what samplers choose together, and what they choose one by one."""
        again = f"again {attempt}" if attempt else ""
        number = trial.number + AHEAD * attempt
        built = self._build(derived_seed(self._seed, trial.number, again), number)
        together = search_space if self._infers(informed[0].directions) else {}
        point = self._together(built, informed, together)
        for name, distribution in self._space.items():
            if name not in point:
                single = self._build(derived_seed(self._seed, trial.number, name + again), number)
                point[name] = single.sample_independent(*informed, name, distribution)
        return point

    def _together(
        self, built: BaseSampler, informed: tuple[Study, FrozenTrial], search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        built.infer_relative_search_space(*informed)  # TPE with `group: true` remembers what it has inferred
        return dict(built.sample_relative(*informed, dict(search_space)))

    def _infers(self, directions: Sequence[StudyDirection]) -> bool:
        """Whether the sampler infers a search space where a trial has all parameters."""
        key = tuple(directions)
        if key not in self._inferred:
            with storage.quiet():
                study = optuna.create_study(directions=key)
            params = {name: each.to_external_repr(getattr(each, "low", 0)) for name, each in self._space.items()}
            study.add_trial(create_trial(values=[0.0] * len(key), params=params, distributions=self._space))
            self._inferred[key] = bool(self._build(0, 1).infer_relative_search_space(study, study.trials[0]))
        return self._inferred[key]

    def _informed(self, study: Study, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
        """A copy of the study in which the earlier trials come first, and the trial's place in it."""
        if not self._earlier_trials:
            return study, trial
        with storage.quiet():
            copy = optuna.create_study(directions=study.directions)
        for each in (*self._earlier_trials, *study.get_trials(deepcopy=False)):
            copy._storage.create_new_trial(copy._study_id, template_trial=each)
        return copy, copy.get_trials(deepcopy=False)[len(self._earlier_trials) + trial.number]

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
class ForgetfulNSGAII(NSGAIISampler):
    """Optuna's NSGA-II, which works the parents of a generation out anew instead of keeping them in the study.

    What the study does not keep is the same after a resume.
    """

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Of a generation, from the trials as they are."""
        return self.select_parent(study, generation) if generation else []


@final
class NumericCmaEs(CmaEsSampler):
    """Optuna's CMA-ES, whose mean and covariance stand in the study; categories, which it cannot move, are random."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The numbers among the parameters."""
        numeric = {name: d for name, d in search_space.items() if not isinstance(d, CategoricalDistribution)}
        return super().sample_relative(study, trial, numeric)
