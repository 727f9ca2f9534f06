"""The comparison on rows that the search never saw: untuned, baseline and best, each measured once.

Losses by row stand in `<study>/evaluation/test.json`, so that any pair can be compared later and a continued search
measures only what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import MeshtuneError
from meshtune.record import Record
from meshtune.recorded import RecordedTrial
from meshtune.selection.statistics import Difference, paired_difference
from meshtune.study import Running, StudyEvent
from meshtune.trial import Ending, Outcome, Progress, Request
from meshtune.workers.seam import Worker

UNTUNED, BASELINE = -1, -2  # request numbers of what is no trial


def gather(worker: Worker, requests: Sequence[Request]) -> Iterator[StudyEvent | Outcome]:
    """Run requests that are no trials; yields their progress and outcomes."""
    queue = list(requests)
    running = 0
    while queue or running:
        while queue and worker.free():
            worker.submit([queue.pop(0)])
            running += 1
        for event in worker.events(0.5):
            if isinstance(event, Progress):
                yield Running(event)
                continue
            running -= 1
            if event.ending is Ending.CRASHED:
                raise MeshtuneError(f"the model could not be measured: {event.message}")
            yield event


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured on the test rows: by name (`untuned`, `trial-3`), `loss` and `rows`."""
    path = folder / "evaluation" / "test.json"
    measured: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return measured


def measure(record: Record, worker: Worker, folder: Path, *, seed: int, threads: int | None) -> Iterator[StudyEvent]:
    """Measure untuned, baseline and best on the test rows, where this has not been done."""
    measured = read(folder)
    adapters: dict[int, tuple[str, str | None]] = {UNTUNED: ("untuned", None)}
    for trial in (record.baseline, record.best):
        if trial is not None and trial.outcome is not None and trial.outcome.adapter is not None:
            adapters[trial.number] = (name_of(trial), trial.outcome.adapter)
    outside = record.notes.get("baseline") or {}
    if outside.get("adapter"):
        adapters[BASELINE] = ("baseline", outside["adapter"])
    missing = {number: named for number, named in adapters.items() if named[0] not in measured}
    requests = [
        Request(number, {}, seed, threads=threads, measure="test", adapter=adapter)
        for number, (_, adapter) in missing.items()
    ]
    for event in gather(worker, requests):
        if isinstance(event, Outcome):
            measured[missing[event.trial][0]] = {"loss": event.loss, "rows": event.row_losses}
            _write(folder, measured)
        else:
            yield event


def name_of(trial: RecordedTrial) -> str:
    """A trial's name among the measured."""
    return f"trial-{trial.number}"


def baseline_name(record: Record) -> str:
    """The baseline's name among the measured."""
    return name_of(record.baseline) if record.baseline is not None else "baseline"


def best_against(record: Record, folder: Path, other: str) -> Difference | None:
    """Test loss of the best minus that of `other` (`untuned` or the baseline's name), or None where not measured."""
    measured = read(folder)
    best = record.best
    if best is None or name_of(best) not in measured or other not in measured or name_of(best) == other:
        return None
    return paired_difference(_rows(measured[name_of(best)]), _rows(measured[other]))


def _rows(entry: dict[str, Any]) -> list[tuple[float, int]]:
    return [(float(total), int(count)) for total, count in entry["rows"]]


def _write(folder: Path, measured: dict[str, dict[str, Any]]) -> None:
    path = folder / "evaluation" / "test.json"
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(measured), encoding="utf-8")
    os.replace(aside, path)
