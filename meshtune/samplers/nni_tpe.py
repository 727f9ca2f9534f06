"""NNI 3.0's TPE tuner as a sampler: the second optimizer of the paper, unchanged, in a child program.

It differs from Optuna's TPE, see docs/nni-tpe.md. As in NNI one stream of random numbers runs through all proposals; a
fresh sampler replays what the record holds. Of a block nothing is told before the next one begins, so that points do
not depend on the order in which answers arrive. Several objectives are refused.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.errors import SamplerError, nearest
from meshtune.samplers.child import Child
from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.ledger import FIXED
from meshtune.samplers.nni_events import NOTE, Event, described, earlier, events
from meshtune.samplers.nni_python import interpreter
from meshtune.samplers.seam import Sampler, left_in_block
from meshtune.samplers.seeds import derived_seed

PROGRAM = Path(__file__).with_name("nni_process.py")
COUNTS = {"n_startup_jobs": 2, "n_ei_candidates": 1, "linear_forgetting": 1}  # with the least that they may be
NUMBERS = ("prior_weight", "gamma")  # above 0
GAMMA, STARTUP = 0.25, 20  # what NNI takes by itself
LIARS = ("best", "worst", "mean", None)


@final
class NniTPESampler(Sampler):
    """NNI's TPE over a given search space.

    Proposals follow from the study's trials and the seed: they are the points that NNI's own tuner gives with this seed
    where it is told each block whole, in the order of the trials. Reals are searched as they are or by their logarithm,
    categories and few whole numbers as NNI's `choice`, more whole numbers as `quniform`. As in NNI a trial that failed
    is forgotten, and one that ended early counts with its last intermediate value. NNI knows no constraints: a trial
    that violates one counts as worse than all others.

    Args:
        search_space: Optuna distributions by name. Where it is finite, `available` ends at its last point.
        block_size: points that are proposed before an answer is needed.
        known: finished trials of an earlier study, whose points are known from the start.
        python: an interpreter that has NNI 3.0; else that of MESHTUNE_NNI_PYTHON; else the present one.
        seed: of NNI's tuner.
        arguments: NNI's `tpe_args`: constant_liar_type (best, worst, mean or None), n_startup_jobs, n_ei_candidates,
            linear_forgetting, prior_weight, gamma.

    Raises:
        ValueError: an argument is not allowed, or the study has several objectives. MissingExtra: there is no NNI 3.0.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        block_size: int = 1,
        known: Sequence[FrozenTrial] = (),
        python: str | None = None,
        seed: int = 0,
        **arguments: Any,
    ):
        if faults := _faults(arguments):
            raise ValueError("; ".join(faults))
        self._encoding = Encoding(search_space)
        self._block_size = block_size
        self._earlier = earlier(known, self._encoding)
        self._python = interpreter(python)
        self._seed = seed
        self._arguments = arguments
        self._child: Child | None = None
        self._direction: StudyDirection | None = None  # the child's
        self._lock = threading.RLock()

    # -- the sampler seam

    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting: blocks are ranges of trial numbers.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """
        trials = study.get_trials(deepcopy=False)
        free = left_in_block(trials, self._block_size)
        if self._encoding.size < math.inf:
            free = min(free, max(0, int(self._encoding.size) - len(self._visited(trials))))
        return free

    def close(self) -> None:
        """End the child program; the next proposal starts another one."""
        with self._lock:
            if self._child is not None:
                self._child.close()
            self._child = None

    # -- Optuna's

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that was given."""
        return dict(self._encoding.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As NNI proposes. An enqueued trial that has all its values is no proposal of NNI's."""
        self._raise_error_if_multi_objective(study)
        encoding = self._encoding
        if encoding.has({**trial.params, **trial.system_attrs.get(FIXED, {})}):
            return {}
        trials = study.get_trials(deepcopy=False)
        begun = [other for other in trials if other.state is not TrialState.WAITING and other.number < trial.number]
        block = len(begun) - len(begun) % self._block_size
        past = self._earlier + events(begun, encoding, block)
        point = self._proposed(study.direction, [*past, ["propose", trial.number, None]])
        if point is None:  # NNI counts as tried what it proposed, though a partly enqueued trial has changed it
            point = self._left(begun)
        note: dict[str, Any] = {"trial": trial.number, "space": encoding.name(), "block": block, "point": list(point)}
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)
        return encoding.decode(point)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the search space: at random."""
        sampler: BaseSampler = RandomSampler(seed=derived_seed(self._seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    # -- inside

    def _proposed(self, direction: StudyDirection, past: Sequence[Event]) -> Sequence[float] | None:
        """The child's answer; None where NNI says that the space is explored. Raises SamplerError where it died."""
        with self._lock:
            if self._direction is not direction:
                self.close()
            try:
                if self._child is None:
                    self._child, self._direction = Child("NNI", PROGRAM, python=self._python), direction
                    self._child.send(self._run(direction))
                self._child.send(past)
                answer: list[float] | None = self._child.receive()
            except SamplerError:
                self.close()
                raise
        return answer

    def _run(self, direction: StudyDirection) -> dict[str, Any]:
        """What the child is told first."""
        return {
            "space": described(self._encoding),
            "mode": "maximize" if direction is StudyDirection.MAXIMIZE else "minimize",
            "seed": self._seed,
            "arguments": self._arguments,
        }

    def _left(self, trials: Sequence[FrozenTrial]) -> Point:
        """A point of a finite space that has no trial; the middle where each has one."""
        encoding, visited = self._encoding, self._visited(trials)
        free = (point for point in encoding.points() if encoding.key(encoding.decode(point)) not in visited)
        return next(free, encoding.middle)

    def _visited(self, trials: Sequence[FrozenTrial]) -> set[Point]:
        """The points that have a trial."""
        encoding = self._encoding
        values = [{**trial.params, **trial.system_attrs.get(FIXED, {})} for trial in trials]
        return {encoding.key(params) for params in values if encoding.has(params)}


def _faults(arguments: Mapping[str, Any]) -> list[str]:
    known = ("constant_liar_type", *COUNTS, *NUMBERS)
    faults = []
    for name, value in arguments.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in known:
            faults.append(f"`{name}` is unknown; there are python, {', '.join(known)}.{nearest(name, known)}")
        elif name == "constant_liar_type" and value not in LIARS:
            faults.append(f"{name} is {value!r}; allowed are best, worst, mean and null (no liar)")
        elif name in COUNTS and not (number and isinstance(value, int) and value >= COUNTS[name]):
            faults.append(f"{name} is {value!r}; it is a whole number, at least {COUNTS[name]}")
        elif name in NUMBERS and not (number and value > 0):
            faults.append(f"{name} is {value!r}; it is a number above 0")
    gamma, startup = arguments.get("gamma", GAMMA), arguments.get("n_startup_jobs", STARTUP)
    if not faults and gamma * math.sqrt(startup) > startup - 1:
        faults.append(
            f"gamma is {gamma}: of the {startup} first trials (n_startup_jobs) none would be bad, which NNI cannot do;"
            f" it is at most {(startup - 1) / math.sqrt(startup):.3g}"
        )
    return faults
