"""NNI 3.0's TPE tuner as a sampler: the second optimizer of the paper, unchanged, in a child program.

It differs from Optuna's TPE, see docs/nni-tpe.md. As in NNI one stream of random numbers runs through all proposals; a
fresh sampler replays what the record holds. NNI learns nothing of a block before the next one begins, so that points do
not depend on the order in which answers arrive; asynchronously a trial's note says what NNI had learned. Several
objectives are refused.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.errors import Fault, InputError, MissingExtra, SamplerError, extra, nearest
from meshtune.samplers.allowed import COUNTED, Allows, draw
from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.interface import BlockSampler, derived_seed, given_params, visited
from meshtune.samplers.nni.events import NOTE, Event, described, earlier, events
from meshtune.system.children import SamplerChild

TRIES = 50  # to be given a point that is allowed
PROGRAM = Path(__file__).with_name("nni_process.py")
COUNTS = {"n_startup_jobs": 2, "n_ei_candidates": 1, "linear_forgetting": 1}  # with the least that they may be
NUMBERS = ("prior_weight", "gamma")  # above 0
GAMMA, STARTUP = 0.25, 20  # what NNI takes by itself
VERSION = "3.0"
VARIABLE = "MESHTUNE_NNI_PYTHON"
ASK = "from importlib.metadata import version; print(version('nni'))"
LIARS = ("best", "worst", "mean", None)


@final
class NniTPESampler(BlockSampler):
    """NNI's TPE over a given search space.

    Proposals follow from the study's trials and the seed: they are the points that NNI's own tuner gives with this seed
    where it gets each block whole, in the order of the trials. Reals are searched as they are or by their logarithm,
    categories and few whole numbers as NNI's `choice`, more whole numbers as `quniform`. As in NNI a trial that failed
    is forgotten, and one that ended early counts with its last intermediate value. NNI knows no constraints: a trial
    that violates one counts as worse than all others.

    Args:
        search_space: Optuna distributions by name. Where it is finite, `available` ends at its last point.
        block_size: points that are proposed before an answer is needed.
        earlier_trials: finished trials of another study, from which the search starts.
        allows: says of a point, by name, whether it may be proposed. Where NNI's is not, NNI is asked again, as if it
            had not been; after some times a random point that is allowed is taken.
        python: an interpreter that has NNI 3.0; else that of MESHTUNE_NNI_PYTHON; else the present one.
        seed: of NNI's tuner.
        arguments: NNI's `tpe_args`: constant_liar_type (best, worst, mean or None), n_startup_jobs, n_ei_candidates,
            linear_forgetting, prior_weight, gamma.

    Raises:
        ValueError: an argument is not allowed, or the study has several objectives. MissingExtra: there is no NNI 3.0.
        SamplerError: from a proposal: the child program died, or no point is found that is allowed.
    """

    not_copied = {"_child": None}  # noqa: RUF012

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        block_size: int = 1,
        earlier_trials: Sequence[FrozenTrial] = (),
        allows: Allows | None = None,
        python: str | None = None,
        seed: int = 0,
        **arguments: Any,
    ):
        if faults := _faults(arguments):
            raise ValueError("; ".join(faults))
        super().__init__(seed, block_size)
        self._encoding = Encoding(search_space)
        self._earlier = earlier(earlier_trials, self._encoding)
        self._allows = allows
        self._python = interpreter(python)
        self._arguments = arguments
        self._child: SamplerChild | None = None
        self._direction: StudyDirection | None = None  # the child's

    # -- the sampler's interface

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
        if encoding.has(given_params(trial)):
            return {}
        trials = study.get_trials(deepcopy=False)
        begun = [other for other in trials if other.state is not TrialState.WAITING and other.number < trial.number]
        block = len(begun) - (0 if self.asynchronous else len(begun) % self._block_size)
        known, ended = events(begun, encoding, block)
        past = self._earlier + known
        asked, point = 0, None
        while point is None and asked < TRIES:
            asked += 1
            found = self._proposed(study.direction, past + [["ask", trial.number, None]] * asked)
            if found is None:
                break
            point = found if self._allows is None or self._allows(encoding.decode(found)) else None
        point = point or self._other(begun, trial.number)
        when: dict[str, Any] = {"ended": ended} if self.asynchronous else {"block": block}
        note = {"trial": trial.number, "space": encoding.name(), **when, "asked": asked, "point": list(point)}
        study._storage.set_trial_system_attr(trial._trial_id, NOTE, note)
        return encoding.decode(point)

    # -- inside

    def _proposed(self, direction: StudyDirection, past: Sequence[Event]) -> Sequence[float] | None:
        """The child's answer; None where NNI says that the space is explored. Raises SamplerError where it died."""
        with self._lock:
            if self._direction is not direction:
                self.close()
            try:
                if self._child is None:
                    self._child, self._direction = SamplerChild("NNI", PROGRAM, python=self._python), direction
                    self._child.send(self._run(direction))
                self._child.send(past)
                answer: list[float] | None = self._child.receive()
            except SamplerError:
                self.close()
                raise
        return answer

    def _run(self, direction: StudyDirection) -> dict[str, Any]:
        """The first line to the child."""
        return {
            "space": described(self._encoding),
            "mode": "maximize" if direction is StudyDirection.MAXIMIZE else "minimize",
            "seed": self._seed,
            "arguments": self._arguments,
        }

    def _other(self, begun: Sequence[FrozenTrial], number: int) -> Point:
        """Where NNI proposes nothing that is allowed or new.

        It counts as tried what it once proposed, though a trial that was enqueued in part was evaluated elsewhere.
        """
        encoding, taken = self._encoding, visited(self._encoding, begun)
        if encoding.size <= COUNTED:
            fresh = (point for key, point in self._points().items() if key not in taken)
            if (found := next(fresh, None)) is not None:
                return found
        rng = np.random.default_rng(derived_seed(self._seed, number))
        return encoding.encode(draw(encoding.space, self._allows or (lambda _: True), rng))

    def _left(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """Points of a finite space that are allowed, as far as they are counted, and have no trial."""
        if self._encoding.size == math.inf:
            return sys.maxsize
        taken = visited(self._encoding, trials)
        if self._allows is None or self._encoding.size > COUNTED:
            return max(0, int(self._encoding.size) - len(taken))
        return len(self._points().keys() - taken)

    def _points(self) -> dict[Point, Point]:
        """All points of a finite space that are allowed, by what they have in common with others."""
        decoded = ((point, self._encoding.decode(point)) for point in self._encoding.points())
        return {self._encoding.key(params): p for p, params in decoded if self._allows is None or self._allows(params)}


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


def interpreter(given: str | None = None) -> str:
    """The path of a Python that has NNI 3.0: `given`, or that of MESHTUNE_NNI_PYTHON, or the present one.

    Raises InputError where it is none or has another version, MissingExtra where it lacks NNI.
    """
    named = given or os.environ.get(VARIABLE)
    where = "sampler.options.python" if given else VARIABLE
    if named is None:
        return _checked(sys.executable, _own_version(), "")
    path = shutil.which(os.path.expanduser(named))
    if path is None:
        raise InputError(Fault(f"`{named}` is no program; the path of a Python that has NNI {VERSION} is", key=where))
    asked = subprocess.run([path, "-c", ASK], capture_output=True, text=True, check=False)
    return _checked(path, asked.stdout.strip(), where)


def _own_version() -> str:
    try:
        return metadata.version("nni")
    except metadata.PackageNotFoundError:
        return ""


def _checked(path: str, version: str, where: str) -> str:
    if version == VERSION:
        return path
    if version:
        raise InputError(
            Fault(f"{path} has NNI {version}; version {VERSION} is needed: pip install nni=={VERSION}", key=where)
        )
    raise MissingExtra(
        f"the sampler `nni-tpe` (with {path})",
        "nni",
        f"{extra('nni')}. Or give it an environment of its own: python -m venv nni-env; nni-env/bin/pip"
        f" install nni=={VERSION}; export {VARIABLE}=$PWD/nni-env/bin/python",
    )
