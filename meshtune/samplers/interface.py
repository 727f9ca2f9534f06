"""The sampler seam: an Optuna `BaseSampler` that also says what it can propose without waiting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.trial import FrozenTrial, TrialState


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
