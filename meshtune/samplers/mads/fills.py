"""Points beyond MADS's own: what is asked for while a block is open.

They follow from the study's trials, the seed and the trial's number, and are read from the record on a resume.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from meshtune.samplers.allowed import draw
from meshtune.samplers.mads.search import Search
from meshtune.samplers.mads.settings import Settings
from meshtune.samplers.seeds import derived_seed

TRIES = 100  # to find a point that nobody has


def filled(settings: Settings, study: Study, trial: FrozenTrial, search: Search) -> dict[str, Any]:
    """A point that is allowed and that no trial has, if one is found; written down as the trial's.

    Raises SamplerError where none is found that is allowed.
    """
    point: dict[str, Any] | None = None  # allowed, though it may be taken
    for attempt in range(TRIES):
        other = proposed(settings, study, trial, search, attempt)
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


def proposed(settings: Settings, study: Study, trial: FrozenTrial, search: Search, attempt: int = 0) -> dict[str, Any]:
    """A point by TPE, then at random.

    Of an enqueued trial only what is left open counts.
    """
    space = search.encoding.space
    seed = derived_seed(settings.seed, trial.number, str(attempt))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler: BaseSampler = TPESampler(seed=seed, constant_liar=True) if attempt == 0 else RandomSampler(seed=seed)
    return {name: sampler.sample_independent(study, trial, name, d) for name, d in space.items()}
