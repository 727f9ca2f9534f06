"""What runs at this moment, for other shells: the coordinator writes it into the study's folder, `follow` reads it.

The file is replaced as a whole, at most once a second, and goes with the run. Nothing is decided from it: what has
ended stands in the record. `follow` gives the events of a run that another process makes, as far as they are seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.plan.locate import Located
from meshtune.record.log import Record
from meshtune.study.loop import (
    Answered,
    Frozen,
    Opened,
    Promoted,
    Retried,
    Running,
    Stage,
    Started,
    StudyEvent,
    TrialFinished,
)
from meshtune.system import whole_file
from meshtune.system.lease import holder
from meshtune.trial import Progress

FILE = "progress.json"
WRITE_SECONDS = 1.0  # between two writes
LOOK_SECONDS = 0.5  # between two looks
TRAIL = 40  # training losses of a running trial


class Written:
    """Writes where a run stands. `show` takes its events, from `Opened` on, which says where."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._last = clock, -WRITE_SECONDS
        self._folder: Path | None = None
        self._opened: Opened | None = None
        self._stage = ""
        self._running: dict[int, dict[str, Any]] = {}

    def show(self, event: StudyEvent) -> None:
        """Take note of an event, and write where it is time to."""
        at_once = True
        match event:
            case Opened():
                self._opened, self._running, self._stage = event, {}, ""
            case Stage(text):
                self._stage, self._running = text, {}
            case Started(request):
                self._running[request.trial] = {"progress": {}, "losses": [], "pack": request.pack}
            case Running(progress):
                known = self._running.setdefault(progress.trial, {"losses": [], "pack": None})
                known["progress"] = dataclasses.asdict(progress)
                if progress.training_loss is not None:
                    known["losses"] = [*known["losses"], progress.training_loss][-TRAIL:]
                at_once = False
            case TrialFinished(trial) | Promoted(trial) | Frozen(trial):
                self._running.pop(trial.number, None)
            case Retried(outcome):
                self._running.pop(outcome.trial, None)
        if self._opened is not None and (at_once or self._clock() - self._last >= WRITE_SECONDS):
            self._last = self._clock()
            self._write(self._opened)

    def close(self) -> None:
        """The run has ended."""
        if self._opened is not None:
            (self._opened.folder / FILE).unlink(missing_ok=True)

    def _write(self, opened: Opened) -> None:
        record = opened.record
        content = {
            "pid": os.getpid(),
            "sampler": opened.sampler,
            "slots": opened.slots,
            "trials": opened.trials,
            "price": opened.price,
            "stage": self._stage,
            "changes": [len(record.trials), len(record.finished), len(record.answers), self._promoted(record)],
            "running": {str(number): known for number, known in self._running.items()},
        }
        with contextlib.suppress(OSError):  # a full disk is what the record meets too; nobody else needs this file
            whole_file.write(opened.folder / FILE, json.dumps(content))

    def _promoted(self, record: Record) -> int:
        return sum(trial.promoted is not None for trial in record.trials)


def written(events: Generator[StudyEvent, None, None]) -> Generator[StudyEvent, None, None]:
    """The events of a run, written down as they pass."""
    progress = Written()
    try:
        with contextlib.closing(events):
            for event in events:
                progress.show(event)
                yield event
    finally:
        progress.close()


def read(study: Located) -> dict[str, Any] | None:
    """What a study's run wrote last; None where none runs, or it has not begun to."""
    running = holder((study.whole or study).folder)
    with contextlib.suppress(FileNotFoundError, ValueError):
        found: dict[str, Any] = json.loads((study.folder / FILE).read_text(encoding="utf-8"))
        return found if running is not None and found["pid"] == running.pid else None  # else one that was killed
    return None


@dataclass(frozen=True)
class Reread:
    """The record as it stands now, and what the run wrote last; empty where none runs or has begun."""

    study: Located
    record: Record
    now: dict[str, Any]


def follow(study: Located, wait: Callable[[float], None] = time.sleep) -> Generator[StudyEvent | Reread, None, None]:
    """What another process does with a study, as far as it is seen, until it runs no more.

    First what there is, then what comes; whenever something has ended the record comes anew. Closing it ends nothing.
    """
    whole = study.whole or study
    seen: _Seen | None = None
    while True:
        running = holder(whole.folder) is not None
        latest = whole.latest
        now = read(latest)
        if latest.started and (seen is None or seen.study.folder != latest.folder):
            seen = _Seen(latest)
        if seen is not None:
            yield from seen.news(now)
        if not running:
            return
        wait(LOOK_SECONDS)


class _Seen:
    """What was seen of a study, or of a round of it."""

    def __init__(self, study: Located):
        self.study = study
        self._changes: Any = ()  # none of its values
        self._stage = ""
        self._counts = [-1, -1]
        self._promoted = set[int]()
        self._last: dict[str, Any] = {}

    def news(self, now: dict[str, Any] | None) -> Iterator[StudyEvent | Reread]:
        """What has come since; `now` is what the run wrote last, None where it has ended or not begun."""
        changes = None if now is None else now["changes"]
        if changes != self._changes:
            self._changes = changes
            yield from self._recorded(now or {})
        if now is None:
            return
        if now["stage"] != self._stage:
            self._stage = now["stage"]
            yield Stage(self._stage)
        for number, known in now["running"].items():
            if known["progress"] and self._last.get(number) != known["progress"]:
                self._last[number] = known["progress"]
                yield Running(Progress(**known["progress"]))

    def _recorded(self, now: dict[str, Any]) -> Iterator[StudyEvent | Reread]:
        record = Record(self.study.url, self.study.name)
        yield Reread(self.study, record, now)
        ended = record.finished
        promoted = {trial.number: trial for trial in ended if trial.promoted is not None}
        new = [trial for number, trial in promoted.items() if number not in self._promoted]
        before, self._counts = self._counts, [len(ended), len(record.answers)]
        self._promoted |= promoted.keys()
        if before[0] < 0:  # what there was
            return
        yield from map(TrialFinished, ended[before[0] :])
        yield from map(Promoted, new)
        yield from map(Answered, list(record.answers.values())[before[1] :])
