"""The sampler seam: an Optuna `BaseSampler` that also says what it can propose without waiting."""

from __future__ import annotations

from abc import abstractmethod

from optuna import Study
from optuna.samplers import BaseSampler


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
