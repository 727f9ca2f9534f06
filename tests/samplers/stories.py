"""What may happen in a study while it is resumed, for tests of exact resume: kills, failures, enqueued points."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import optuna
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution

from meshtune.record.storage import open_storage
from meshtune.samplers.interface import Sampler

CHANGED = 16  # the trial before which the sampler is replaced in any case: settings may be others from here on
block_sizes = st.sampled_from([1, 3, 8])


def numbers(total: int, *, least: int = 0, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Some trials' numbers, in order."""
    return st.sets(st.integers(1, total - 1), min_size=least, max_size=most).map(lambda s: tuple(sorted(s)))


def play(
    sampler_of: Callable[[int], Sampler],
    judge: Callable[[optuna.Trial], None],
    *,
    space: Mapping[str, BaseDistribution],
    directions: Sequence[str],
    total: int,
    enqueue: Collection[int],
    kills: Collection[int],
    storage: str | None = None,
) -> list[dict[str, Any]]:
    """The points of the study; the sampler is replaced after the trials in `kills`, and before trial 16 in any case.

    In a `storage` the study is loaded anew, too. `sampler_of` a trial's number; `judge` tells how a trial ended.
    """
    held = None if storage is None else open_storage(storage)
    study = optuna.create_study(directions=directions, storage=held, study_name="story")
    sampler = sampler_of(0)
    pending: list[int] = []
    for number in itertools.count():
        if number in kills or number == CHANGED:
            sampler.close()
            sampler = sampler_of(number)
            if storage is not None:
                study = optuna.load_study(study_name="story", storage=open_storage(storage))
        if number == total:
            break
        if number in enqueue:
            study.enqueue_trial(
                {"kind": True, "rank": 60 + number, "rate": 1e-4, **({"step": 0.25} if number % 2 else {})}
            )
        study.sampler = sampler
        if sampler.available(study) == 0:
            assert pending, "neither a point nor anything to wait for"
            for waiting in pending:
                judge(optuna.Trial(study, study.trials[waiting]._trial_id))
            pending.clear()
            assert sampler.available(study) > 0
        pending.append(study.ask(space).number)
    sampler.close()
    return [trial.params for trial in study.trials]
