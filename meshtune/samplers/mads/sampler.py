"""MADS (NOMAD) as an Optuna sampler.

Source: Audet and Dennis 2006 (MADS); Audet and Dennis 2009 (progressive barrier); Bigeon, Le Digabel and Salomon 2021
(DMulti-MADS); NOMAD 4 (Audet, Le Digabel, Rochon Montplaisir, Tribes 2022).

What is asked for while a block is open is beyond MADS's own points (a *fill*): it follows from the study's trials, the
seed and the trial's number, and is read from the record on a resume.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.logging import get_logger
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.samplers._base import _INDEPENDENT_SAMPLING_WARNING_TEMPLATE as INDEPENDENT
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.allowed import check, draw
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.interface import Knowledge, Sampler, derived_seed, fixed_beside, given_params
from meshtune.samplers.mads.nomad import option_lines
from meshtune.samplers.mads.search import Search
from meshtune.samplers.mads.segments import Barrier, MadsSettings
from meshtune.samplers.outcomes import Pruned, Values, WarmStart

_logger = get_logger(__name__)

TRIES = 100  # to find a point that nobody has


@final
class MadsSampler(Sampler):
    """Mesh adaptive direct search, in blocks of points that do not wait for each other.

    Works with `study.optimize`, also with `n_jobs` and with several processes on one storage, and with ask and tell.
    The study's trials are the sampler's only state: a fresh sampler goes on exactly where another one was interrupted.
    Asked for more points than the open block has, it proposes others by TPE instead of waiting (a *fill*); MADS takes
    up what is better among them. Integers are searched as such and logarithmic ones as logarithms; categories and
    booleans by their position among the choices, so give ordered ones in their order. What is proven of MADS holds for
    the real and integer variables; over categories it is a good local search.

    With several directions it approximates the Pareto set (DMulti-MADS). Constraints are those of
    `trial.set_constraint`. Failed trials count as evaluations without a value, from which MADS moves away, and so do
    pruned ones unless `pruned` says otherwise.

    Args:
        x0: the start point by name, of some or all parameters; the rest, or all of it, is the middle of the space.
        search_space: Optuna distributions by name. Left out, it is what the complete trials have in common, so the
            first trial is sampled by `independent_sampler`. Where it is given and finite, the study is stopped once
            every point has a trial.
        block_size: most points that are proposed before an answer is needed. By default as many as have been run at
            once when NOMAD starts, so that one at a time each answer steers the next point.
        n_startup: points before NOMAD begins: the start point, earlier trials, and a Latin hypercube. One block by
            default; with several objectives at least twice the number of variables.
        warm_start: an earlier study, or finished trials, from which the search starts.
        warm_start_values: `as_is`; or `shifted` where they come from another fidelity: the best four are evaluated
            again, and the others are moved by the median difference.
        known: what is known of a LoRA study beforehand: its points come after the start. Left aside with `warm_start`.
        barrier: `progressive` lets MADS pass through infeasible points; `extreme` rejects them.
        a_priori: says of a point, by name, whether it is allowed. What it refuses is never evaluated and costs nothing.
        hidden_constraints: names of constraints whose violation means that the trial has no honest value.
        pruned: `failed`; or `value`: a pruned trial's value is what it would have ended with. Optuna's own pruners
            leave there what was reported last, which is no such value: set it yourself, above the best complete one.
        nomad_options: further NOMAD parameters by name, such as `{"QUAD_MODEL_SEARCH": False}`.
        independent_sampler: for parameters outside the search space; random by default.
        warn_independent_sampling: warn where it is used.
        seed: of NOMAD and of what is random; drawn where it is left out.
        new_segment: do not replay NOMAD's last run: go on from the recorded points as earlier trials.

    Raises:
        ValueError: an argument is not allowed.
        SamplerError: from a proposal: NOMAD's process died, or a replay proposed other points than the recorded ones.
    """

    def __init__(
        self,
        *,
        x0: Mapping[str, Any] | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        block_size: int | None = None,
        n_startup: int | None = None,
        warm_start: Study | Sequence[FrozenTrial] | None = None,
        warm_start_values: Values = "as_is",
        known: Knowledge | None = None,
        barrier: Barrier = "progressive",
        a_priori: Callable[[dict[str, Any]], bool] | None = None,
        hidden_constraints: Collection[str] = (),
        pruned: Pruned = "failed",
        nomad_options: Mapping[str, object] | None = None,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
        seed: int | None = None,
        new_segment: bool = False,
    ):
        check(
            least={"block_size": (block_size, 1), "n_startup": (n_startup, 0)},
            words={
                "warm_start_values": (warm_start_values, ("as_is", "shifted")),
                "barrier": (barrier, ("progressive", "extreme")),
                "pruned": (pruned, ("failed", "value")),
            },
            hidden_constraints=hidden_constraints,
            x0=x0,
            space=search_space,
        )
        options = option_lines(nomad_options or {})
        if (block_size or 1) > 1 and any(line.upper().startswith("VNS_MADS_SEARCH Y") for line in options):
            raise ValueError("nomad_options: NOMAD has no VNS_MADS_SEARCH of blocks: leave it out, or block_size at 1")
        self._settings = MadsSettings(
            seed=int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed),
            x0=dict(x0 or {}),
            block_size=None if block_size is None else int(block_size),
            n_startup=n_startup,
            warm_start=None if warm_start is None else WarmStart.of(warm_start, warm_start_values),
            first=tuple(known.points) if known else (),
            barrier=barrier,
            a_priori=a_priori,
            hidden=frozenset(hidden_constraints),
            pruned=pruned,
            options=options,
        )
        self._space = None if search_space is None else dict(search_space)
        self._common = IntersectionSearchSpace()
        self._independent = independent_sampler
        self._warn = warn_independent_sampling
        self._new_segment = new_segment
        self._search: Search | None = None
        self._of: tuple[object, ...] = ()  # which study and space the search is for
        self._lock = threading.RLock()

    # -- the sampler's interface

    def available(self, study: Study) -> int:
        """Points of the open block that can be proposed without waiting.

        0 with trials pending: wait for them. 0 with none pending: the space is exhausted.
        """
        with self._lock:
            search = self._searching(study, self._infer(study))
            if search is not None:
                return search.free(study)
            return int(not study.get_trials(deepcopy=False) or self._space is None)

    def close(self) -> None:
        """End NOMAD's process. The study holds all that is needed to go on."""
        with self._lock:
            if self._search is not None:
                self._new_segment = self._search.forced  # still wanted where it has no trial yet
                self._search.close()
                self._search = None

    # -- Optuna's

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that was given, or what the complete trials have in common."""
        with self._lock:
            return self._infer(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next point of the open block, or a fill beyond it. Of an enqueued trial only what is left open."""
        with self._lock:
            search = self._searching(study, search_space)
            if search is None:
                return {}
            fixed = given_params(trial)  # a trial that Optuna retries has params
            if not any(name in fixed for name in search.encoding.space):
                point = search.lend(study, trial)
                return _filled(self._settings, study, trial, search) if point is None else point
            return _proposed(self._settings, study, trial, search)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the search space."""
        if self._warn and self._knew_its_space(study, trial):
            _logger.warning(
                INDEPENDENT.format(
                    param_name=param_name,
                    trial_number=trial.number,
                    independent_sampler_name=type(self._independent or RandomSampler()).__name__,
                    sampler_name=type(self).__name__,
                    fallback_reason="it is not in the search space; dynamic search spaces are not supported",
                )
            )
        seed = derived_seed(self._settings.seed, trial.number, param_name)
        sampler = self._independent or RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Of the independent sampler; what MADS proposes follows from the seed alone."""
        if self._independent is not None:
            self._independent.reseed_rng()

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop the study where every point of a finite space that was given has been tried, as `GridSampler` does."""
        with self._lock:
            search = self._search
            if search is not None and self._space is not None and search.encoding.size < float("inf"):
                search.ledger.update(study.get_trials(deepcopy=False))
                if search.exhausted:
                    with contextlib.suppress(RuntimeError):  # outside `optimize` there is nothing to stop
                        study.stop()

    # -- copies and pickles leave the child behind, and open their own by a replay

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_search": None, "_of": (), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    # -- inside

    def _infer(self, study: Study) -> dict[str, BaseDistribution]:
        space = self._common.calculate(study) if self._space is None else self._space
        return dict(Encoding(space).space)

    def _knew_its_space(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether there was a search space when the trial began."""
        if self._space is not None:
            return True
        ends = (t.datetime_complete for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        return any(end is not None and trial.datetime_start is not None and end <= trial.datetime_start for end in ends)

    def _searching(self, study: Study, space: Mapping[str, BaseDistribution]) -> Search | None:
        """The search of this study and space; None where nothing is to be chosen."""
        encoding = Encoding(space)
        if not encoding.space:
            return None
        # Storages are distinguished by identity; a fork shares no child.
        fixed = fixed_beside(study)
        described = repr((encoding.space, fixed))
        of = (study._storage, study._study_id, study.study_name, described, os.getpid())
        if self._search is None or self._of != of:
            self.close()
            self._search = Search(self._settings, study, encoding, fixed, new_segment=self._new_segment)
            self._of, self._new_segment = of, False
        return self._search


def _filled(settings: MadsSettings, study: Study, trial: FrozenTrial, search: Search) -> dict[str, Any]:
    """A point that is allowed and that no trial has, if one is found; written down as the trial's.

    Raises SamplerError where none is found that is allowed.
    """
    point: dict[str, Any] | None = None  # allowed, though it may be taken
    for attempt in range(TRIES):
        other = _proposed(settings, study, trial, search, attempt)
        if not search.allows(other):
            continue
        point = point or other
        key = search.encoding.key(other)
        if not search.ledger.is_taken(key, but=trial.number) and search.fill(study, trial, key):
            return other
        if search.exhausted:
            break
    if (point := point or search.awaited) is None:
        rng = np.random.default_rng(derived_seed(settings.seed, trial.number, "drawn"))
        point = draw(search.encoding.space, search.allows, rng)
    search.fill(study, trial, search.encoding.key(point))
    return point


def _proposed(
    settings: MadsSettings, study: Study, trial: FrozenTrial, search: Search, attempt: int = 0
) -> dict[str, Any]:
    """A point by TPE, then at random.

    Of an enqueued trial only what is left open counts.
    """
    space = search.encoding.space
    seed = derived_seed(settings.seed, trial.number, str(attempt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: BaseSampler = TPESampler(seed=seed, constant_liar=True) if attempt == 0 else RandomSampler(seed=seed)
    return {name: sampler.sample_independent(study, trial, name, d) for name, d in space.items()}
