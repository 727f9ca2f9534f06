"""What every sampler is and shares: Optuna's `BaseSampler` that also says what it can propose without waiting.

Seeds follow from (study's seed, trial number): the same in every process, unrelated to each other.
"""

from __future__ import annotations

import sys
import threading
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.encoding import Encoding, Point

FIXED = "fixed_params"  # Optuna's attribute of an enqueued trial
BESIDE_BLOCKS = "beside_blocks"  # the record's attribute of a trial that a person enqueued: it is in no block


End = tuple[float, float]  # what a trial that was stopped would have ended with, minimised, and its deviation
Ends = Callable[[Sequence[FrozenTrial]], Mapping[int, End]]  # by number, of the pruned trials among a study's


class Knowledge(Protocol):
    """What is known of a search before its first trial; `meshtune.priors.known.Known` is one, of LoRA's.

    Values are those of the parameters that are numbers, by name, each an array with a number a point.
    """

    @property
    def names(self) -> Sequence[str]:
        """Of all parameters: it is used where the search has these and no others."""

    @property
    def points(self) -> Sequence[Mapping[str, Any]]:
        """To be tried after the start, in their order."""

    @property
    def several(self) -> bool:
        """Whether the product follows from several parameters, so that it is worth a coordinate of its own."""

    def product(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """A coordinate that decides much, monotone in each parameter."""

    def loss(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The log of the expected objective over the least one."""


class Sampler(BaseSampler):
    """A sampler for the loop; everything else is Optuna's. `meshtune.testing.samplers` holds its contract.

    Proposals depend on the study's trials and the sampler's arguments alone, so that a fresh sampler continues a study.

    Attributes:
        asynchronous: the next point waits for any trial of the last `block_size`, and not for all of a block. A sampler
            whose blocks are answered as a whole, such as MADS, leaves it False.
        learns: a proposal follows from the trials as they stand then, so that the value of one that had ended may
            change, as where it was stopped early and trained on. False where what was told once counts for good.
    """

    asynchronous: bool = False
    learns: bool = False

    @abstractmethod
    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of processes. May be called twice; a closed sampler opens again when it is asked."""


class BlockSampler(Sampler):
    """A sampler whose blocks are ranges of trial numbers: a block opens when all trials before it have ended.

    With `asynchronous` there are none, and the size is that of what may be pending.
    A parameter outside its search space is drawn at random. Copies and pickles have a lock of their own.

    Args:
        seed: of all that is random. block_size: points that are proposed before an answer is needed.
    """

    several_objectives: ClassVar[bool] = False  # else they are refused
    not_copied: ClassVar[Mapping[str, Any]] = {}  # attributes of a copy or pickle by name, beside the lock

    def __init__(self, seed: int, block_size: int):
        self._seed, self._block_size = seed, block_size
        self._lock = threading.RLock()

    @final
    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """
        trials = study.get_trials(deepcopy=False)
        free = left_in_block(trials, self._block_size, asynchronous=self.asynchronous)
        return min(free, self._left(study, trials)) if free else 0

    def _left(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """Points of a finite space that are allowed and have no trial; any number where they are not counted."""
        return sys.maxsize

    @final
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the search space: at random."""
        if not self.several_objectives:
            self._raise_error_if_multi_objective(study)
        sampler: BaseSampler = RandomSampler(seed=derived_seed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def close(self) -> None:
        """Nothing is held."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **self.not_copied, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())


def left_in_block(trials: Sequence[FrozenTrial], block_size: int, *, asynchronous: bool = False) -> int:
    """What can be proposed without waiting where blocks are ranges of trial numbers: a block opens when all before it
    have ended. `asynchronous`: at most `block_size` trials are pending, whichever they are. Trials that are enqueued
    and that nobody has asked for do not count yet, and those that a person enqueued never do.
    """
    begun = [t for t in trials if t.state is not TrialState.WAITING and BESIDE_BLOCKS not in t.system_attrs]
    if asynchronous:
        return max(0, block_size - sum(not trial.state.is_finished() for trial in begun))
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


def note_of(trial: FrozenTrial, name: str, space: str | None = None) -> Mapping[str, Any]:
    """What a sampler noted on a trial, by the attribute's name; empty where there is nothing, or the note is that of
    the trial which this one is a copy of, or of another space than `space`.
    """
    note: Mapping[str, Any] = trial.system_attrs.get(name, {})
    return note if note.get("trial") == trial.number and space in (None, note.get("space")) else {}


def visited(encoding: Encoding, trials: Iterable[FrozenTrial]) -> set[Point]:
    """The points of a space that trials have, by what is the same for the same points."""
    return {encoding.key(params) for params in map(given_params, trials) if encoding.has(params)}
