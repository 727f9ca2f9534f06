"""Where a pack's checkpoint lies, when it is thrown away, and when a crash speaks against going on from it.

A pack that was interrupted goes on from its checkpoint however often. One that crashed goes on from it once: where it
crashes again without having got to another save, what was saved may be the reason, and the next attempt starts over.
What is stopped early keeps its state elsewhere, until it is promoted and has gone on from there to its end.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path

from meshtune.system import whole_file
from meshtune.trial import Outcome, Request, from_json, to_json

FOLDER = "checkpoints"
STOPPED = "stopped"  # in the study's folder; in it a folder a trial
_RETRIED = "retried"  # holds the attempt that went on from a state, and that state's time
_TRAINED = "trained.jsonl"  # in a pack's folder
_REPLICATES = 1000  # more than a trial has
_OF_BASELINE = 100  # requests of what is no trial have the numbers below, see `meshtune.study.finals`


def name_of(trials: Sequence[int]) -> str:
    """The folder of a pack's checkpoint among those of a study."""
    if min(trials) < 0:
        return beside(trials[0])
    return str(trials[0]) if len(trials) == 1 else f"{trials[0]}-{trials[-1]}"


def of_pack(requests: Sequence[Request]) -> str:
    """The folder of the checkpoint of a pack, which stays the same when others join it."""
    return name_of([request.trial for request in requests if request.joins is None] or [requests[0].trial])


def replicate(trial: int | None, index: int) -> int:
    """The number of a request that trains a trial's point once more: below 0, and of no other such training.

    `trial`: None for a baseline that is no trial.
    """
    return -(_OF_BASELINE + index if trial is None else _REPLICATES * (trial + 1) + index)


def is_replicate(number: int) -> bool:
    """Whether a request with this number trains a trial's point, or the baseline's, once more."""
    return number < -_OF_BASELINE


def beside(number: int) -> str:
    """The name of what is trained beside the trials, with a number below 0.

    `baseline`, `replicate-TRIAL-INDEX`, or `replicate-baseline-INDEX`.
    """
    trial, index = divmod(-number, _REPLICATES)
    if not trial:
        return f"replicate-baseline-{index - _OF_BASELINE}" if index > _OF_BASELINE else "baseline"
    return f"replicate-{trial - 1}-{index}"


def keep(folder: Path, kept: Path) -> None:
    """Move a checkpoint, at once, to where its trial goes on once it is promoted."""
    forget(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    folder.replace(kept)


def tidy(folder: Path, pending: Set[int]) -> None:
    """Remove the checkpoints of packs of which no trial is pending."""
    for place in folder.glob("[0-9]*"):
        first, _, last = place.name.partition("-")
        if pending.isdisjoint(range(int(first), int(last or first) + 1)):
            forget(place)


def tidy_stopped(folder: Path, kept: Set[int]) -> None:
    """Remove the states of stopped trials but of these, and the folder of all of them once it is empty."""
    for place in folder.glob("[0-9]*"):
        if int(place.name) not in kept:
            forget(place)
    with contextlib.suppress(OSError):
        folder.rmdir()


def before_attempt(folder: Path, attempt: int) -> None:
    """Throw the checkpoint away where an attempt before this one went on from the same one and crashed."""
    from meshtune.training.saved_state import FILE  # imports torch, which studies of a program need not have

    state, mark = folder / FILE, folder / _RETRIED
    if attempt < 2 or not state.is_file():
        return
    saved = str(state.stat().st_mtime_ns)
    earlier, _, same = mark.read_text(encoding="utf-8").partition(" ") if mark.is_file() else ("", "", "")
    if same == saved and int(earlier) < attempt:
        print(f"it crashed again after going on from {folder}: starting over", file=sys.stderr, flush=True)
        forget(folder)
    else:
        mark.write_text(f"{attempt} {saved}", encoding="utf-8")


def saved_at(folder: Path) -> int:
    """When a pack last saved what it goes on from, on the clock of its files; 0: it has not."""
    return max((path.stat().st_mtime_ns for path in folder.glob("*") if path.name != _RETRIED), default=0)


def keep_trained(folder: Path, outcomes: Iterable[Outcome]) -> None:
    """Keep the outcomes of a pack that is trained, of which something is still to be measured."""
    folder.mkdir(parents=True, exist_ok=True)
    whole_file.write(folder / _TRAINED, "\n".join(map(to_json, outcomes)))


def trained(folder: Path, requests: Sequence[Request]) -> dict[int, Outcome]:
    """The outcomes by trial that `keep_trained` kept of these requests; none where not all are there."""
    try:
        lines = (folder / _TRAINED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    known = {outcome.trial: outcome for line in lines if isinstance(outcome := from_json(line), Outcome)}
    if any(request.trial not in known for request in requests):
        return {}
    return {request.trial: replace(known[request.trial], attempt=request.attempt) for request in requests}


def forget(folder: Path) -> None:
    """Remove a checkpoint. The folder of all of them stays: another process may be saving into it."""
    shutil.rmtree(folder, ignore_errors=True)
