"""Stopped trials that may still be the best are trained to their end, before anything is chosen.

Each goes on from the checkpoint that it was stopped with, whatever stopped it. Which they are is decided once for what
has ended, and noted, so that a run which is interrupted goes on with the same ones, and one that is finished does no
more. No sampler learns of it, no budget ends it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from meshtune.record.log import Record
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.finals import Runner
from meshtune.study.loop import Promoted, Stage, StudyEvent
from meshtune.trial import Outcome

CHOSEN = "promoting"  # the note: which trials, and how many had ended when that was decided


def promote(record: Record, early: EarlyStopping, runner: Runner) -> Iterator[StudyEvent]:
    """Train them on, as many at once as there are processes; done ones stay done.

    Ends early where `runner.stop()` says. One that ends otherwise than `complete` is recorded as it ended. Their
    seconds count as the search's.
    """
    begun = time.monotonic() - record.elapsed
    finished = len(record.finished)
    chosen = record.notes.get(CHOSEN) or {}
    if chosen.get("told") != finished:
        chosen = {"told": finished, "trials": early.promising(record)}
        record.note(CHOSEN, chosen)
    trials = [record.trials[number] for number in chosen["trials"] if record.trials[number].promoted is None]
    if not trials:
        return
    yield Stage(f"training {_count(len(trials))} to the end that stopped early and may be the best")
    requests = [dataclasses.replace(trial.request(runner.threads, runner.timeout), promote=True) for trial in trials]
    for event in runner.gather(requests, any_ending=True):
        if not isinstance(event, Outcome):
            yield event
            continue
        trial = record.promote(event)
        record.note("elapsed", time.monotonic() - begun)
        yield Promoted(trial)


def _count(trials: int) -> str:
    return f"{trials} {'trial' if trials == 1 else 'trials'}"
