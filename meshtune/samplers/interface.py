"""What every sampler is and shares: Optuna's `BaseSampler` that also says what it can propose without waiting.

Seeds follow from (study's seed, trial number): the same in every process, unrelated to each other.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

FIXED = "fixed_params"  # Optuna's attribute of an enqueued trial


class Sampler(BaseSampler):
    """A sampler for the loop; everything else is Optuna's. `meshtune.testing.samplers` holds its contract.

    Proposals depend on the study's trials and the sampler's arguments alone, so that a fresh sampler continues a study.
    """

    @abstractmethod
    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of processes. May be called twice; a closed sampler opens again when it is asked."""


def left_in_block(trials: Sequence[FrozenTrial], block_size: int) -> int:
    """What can be proposed without waiting where blocks are ranges of trial numbers: a block opens when all before it
    have ended. Trials that are enqueued and that nobody has asked for do not count yet.
    """
    begun = [trial for trial in trials if trial.state is not TrialState.WAITING]
    in_block = len(begun) % block_size
    if in_block == 0 and not all(trial.state.is_finished() for trial in begun):
        return 0
    return block_size - in_block


def fixed_beside(study: Study) -> Mapping[str, Any]:
    """Values by name that Optuna's `PartialFixedSampler` fixes: trials with other ones are not of this search."""
    sampler = study.sampler
    return sampler._fixed_params if isinstance(sampler, PartialFixedSampler) else {}


def derived_seed(seed: int, number: int, name: str = "") -> int:
    """A 32-bit seed for trial `number` (and a parameter's name, where parameters are drawn one by one)."""
    return int(np.random.SeedSequence([seed, number, zlib.crc32(name.encode())]).generate_state(1)[0])


def given_params(trial: FrozenTrial) -> dict[str, Any]:
    """Values that a trial has, asked for or enqueued; one that Optuna retries has them as if it had asked."""
    return {**trial.params, **trial.system_attrs.get(FIXED, {})}


def at_random(seed: int, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
    """A parameter outside the search space."""
    sampler: BaseSampler = RandomSampler(seed=derived_seed(seed, trial.number, name))
    return sampler.sample_independent(study, trial, name, distribution)
