"""Stopped trials that may still be the best, or that a person asked for, are trained to their end, before anything is
chosen.

Each goes on from the checkpoint that it was stopped with, whatever stopped it. Which they are is decided once for what
has ended, and noted, so that a run which is interrupted goes on with the same ones, and one that is finished does no
more. No sampler learns of it, no budget ends it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from meshtune.objectives import checkpoints
from meshtune.record.log import Record
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.finals import Runner
from meshtune.study.loop import Promoted, Stage, StudyEvent
from meshtune.system.text import counted
from meshtune.trial import Ending, Outcome

CHOSEN = "promoting"  # the note: which trials, and how many had ended when that was decided
STATES = 3  # times `promote`: of so many stopped trials the state is kept, since which of them lead may change


def promote(record: Record, early: EarlyStopping | None, runner: Runner) -> Iterator[StudyEvent]:
    """Train them on, as many at once as there are processes; done ones stay done.

    Ends early where `runner.stop()` says. One that ends otherwise than `complete` is recorded as it ended. Their
    seconds count as the search's.
    """
    begun = time.monotonic() - record.elapsed
    finished = len(record.finished)
    chosen = record.notes.get(CHOSEN) or {}
    if chosen.get("told") != finished:
        chosen = {"told": finished, "trials": [] if early is None else early.promising(record)}
        if early is not None:
            record.note(CHOSEN, chosen)
    likely = [number for number in chosen["trials"] if record.wishes.get(number) != "stop"]
    numbers = dict.fromkeys([*likely, *wished(record)])
    trials = [record.trials[number] for number in numbers if record.trials[number].promoted is None]
    if not trials:
        return
    why = "may be the best" if likely else "shall be finished"
    yield Stage(f"training {counted(len(trials), 'trial')} to the end that stopped early and {why}")
    requests = [dataclasses.replace(trial.request(runner.threads, runner.timeout), promote=True) for trial in trials]
    for event in runner.gather(requests, any_ending=True):
        if not isinstance(event, Outcome):
            yield event
            continue
        trial = record.promote(event)
        record.note("elapsed", time.monotonic() - begun)
        yield Promoted(trial)


def tidy_states(record: Record, early: EarlyStopping | None, folder: Path) -> None:
    """Remove the states of stopped trials that nothing goes on from."""
    if early is None:
        return
    kept = {trial.number for trial in record.pending} | set(early.promising(record, STATES * early.config.promote))
    kept |= record.wishes.keys()  # what a person had stopped may have to be finished
    if early.config.freeze:
        kept |= {trial.number for trial in record.frozen} | record.thawing.keys()
    kept -= {number for number in record.dropped if not record.goes(number)}
    checkpoints.tidy_stopped(folder, kept)


def wished(record: Record) -> list[int]:
    """Numbers of the stopped trials that a person asked to be trained to their end, and that are not yet."""
    asked = [record.trials[number] for number, action in record.wishes.items() if action == "finish"]
    stopped = (trial for trial in asked if trial.outcome and trial.outcome.ending is Ending.STOPPED_EARLY)
    return [trial.number for trial in stopped if trial.promoted is None]
