"""What is measured beside the search: untuned, baseline, best and recommended on rows that it never saw, and answers.

Losses by row stand in `<study>/evaluation/test.json`, so that any pair can be compared later and a continued search
measures only what is new.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.data import answers
from meshtune.errors import InputError, MeshtuneError
from meshtune.plan.budget import Stop
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.selection.recommended import recommended
from meshtune.selection.statistics import Difference, Mean, mean_interval, paired_difference
from meshtune.study.loop import WAIT_SECONDS, Retried, Running, StudyEvent
from meshtune.study.packs import LOSSES, full_disk
from meshtune.system import whole_file
from meshtune.trial import Ending, Outcome, Progress, Request, Rung
from meshtune.workers.interface import Worker

UNTUNED, BASELINE, TRAINER = -1, -2, -3  # request numbers of what is no trial
CONFIG = "adapter_config.json"  # in the folder of an adapter
_WHAT = {
    None: "training the baseline",
    "validation": "measuring on the validation rows",
    "test": "measuring on the test rows",
    "answers": "answering validation rows",
    "float32": "measuring with the base in float32",
    "trainer": "trying whether trials can be packed",
}


@dataclass(frozen=True)
class Runner:
    """Runs requests that are no trials of the search.

    Attributes:
        seed: of everything random. threads: CPU threads, None for the worker's own choice.
        attempts: of a request that crashes. stop: says when to end early. timeout: of a training alone.
        holding: raises where the study is no longer ours to write to; it is asked before an outcome is handed over.
    """

    worker: Worker
    seed: int
    threads: int | None
    attempts: int
    stop: Callable[[], Stop | None] = lambda: None
    timeout: float | None = None
    holding: Callable[[], None] = lambda: None

    def request(self, number: int, hyperparameters: Mapping[str, Any], **fields: Any) -> Request:
        """A request with this seed and these threads."""
        return Request(number, hyperparameters, self.seed, threads=self.threads, **fields)

    def measure(
        self, what: str, adapters: Mapping[str, str | None], keep: Callable[[str, Outcome], None]
    ) -> Iterator[StudyEvent]:
        """Measure adapters by name (None: the untuned model); `keep` is given each one's outcome as it comes."""
        requests = [
            self.request(UNTUNED - number, {}, measure=what, adapter=adapter)
            for number, adapter in enumerate(adapters.values())
        ]
        names = dict(zip((request.trial for request in requests), adapters, strict=True))
        for event in self.gather(requests):
            if isinstance(event, Outcome):
                keep(names[event.trial], event)
            else:
                yield event

    def gather(
        self, requests: Sequence[Request], *, any_ending: bool = False, sizes: Sequence[int] = ()
    ) -> Iterator[StudyEvent | Outcome]:
        """Run them; yields their progress and outcomes. Ends early where `stop()` says so.

        `any_ending`: an outcome may be any; else, raises MeshtuneError where one does not complete, after so many
        attempts where it crashes; InputError, at once, where the input is at fault. `sizes`: of packs that are
        submitted together, which add up to all; none: each alone. What is tried again is tried alone.
        """
        queue = [list(pack) for pack in _cut(requests, sizes or [1] * len(requests))]
        running: dict[int, Request] = {}
        crashes = Counter[int]()
        while queue or running:
            if stopping := self.stop():
                queue.clear()
                if not running:
                    return
            grace = stopping.seconds if stopping else None
            if grace is not None:
                self.worker.suspend(grace)
            while queue and self.worker.free():
                pack = queue.pop(0)
                self.worker.submit(pack)
                running.update({request.trial: request for request in pack})
            for event in self.worker.events(WAIT_SECONDS if grace is None else 0):
                if isinstance(event, Progress):
                    yield Running(event)
                    continue
                if isinstance(event, Rung):  # nothing of these asks
                    continue
                request = running.pop(event.trial)
                if event.no_room:
                    raise full_disk(event)
                crashes[event.trial] += event.ending is Ending.CRASHED and not event.lost
                again = crashes[event.trial] < self.attempts and event.attempt < LOSSES * self.attempts
                if event.ending is Ending.CRASHED and event.retry and again:
                    queue.append([dataclasses.replace(request, attempt=event.attempt + 1)])
                    yield Retried(event)
                elif event.ending is Ending.COMPLETE or any_ending:
                    self.holding()
                    yield event
                else:
                    raise _failed(request, event)
            if grace is not None:
                return


def _failed(request: Request, outcome: Outcome) -> MeshtuneError:
    what, ending = _WHAT[request.measure], outcome.ending
    if ending is Ending.CRASHED and not outcome.retry:
        return InputError(f"{what}: {outcome.message}")
    return MeshtuneError(f"{what} ended as {ending}: {outcome.message}. {ending.advice}")


def _cut(requests: Sequence[Request], sizes: Sequence[int]) -> Iterator[Sequence[Request]]:
    first = 0
    for size in sizes:
        yield requests[first : first + size]
        first += size


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """What was measured on the test rows: by name (`untuned`, `trial-3`), `loss` and `rows`."""
    path = folder / "evaluation" / "test.json"
    measured: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return measured


def adapters_of(record: Record, folder: Path, trials: Iterable[RecordedTrial | None]) -> dict[str, str | None]:
    """By name the adapters of these trials and of a baseline that is no trial, as far as they are kept; and first the
    untuned model, which has none.
    """
    found = {"baseline": (record.notes.get("baseline") or {}).get("adapter")}
    found |= {name_of(trial): trial.final.adapter for trial in trials if trial is not None and trial.final is not None}
    kept = {name: adapter for name, adapter in found.items() if adapter and (folder / adapter / CONFIG).is_file()}
    return {"untuned": None, **kept}


def measure(record: Record, folder: Path, runner: Runner) -> Iterator[StudyEvent]:
    """Measure untuned, baseline, best and recommended on the test rows, where this has not been done.

    A recommended trial whose adapter was dropped, while nothing recommended it yet, is left out.
    """
    measured, found = read(folder), recommended(record)

    def keep(name: str, outcome: Outcome) -> None:
        measured[name] = {"loss": outcome.loss, "rows": outcome.row_losses}
        _write(folder, measured)

    trials = (record.baseline, record.best, record.trials[found.number] if found else None)
    adapters = adapters_of(record, folder, trials)
    yield from runner.measure("test", {name: adapters[name] for name in adapters if name not in measured}, keep)


def answer(record: Record, folder: Path, runner: Runner, *, all_kept: bool, made: str) -> Iterator[StudyEvent]:
    """Let untuned, baseline and best, or all kept adapters, answer validation rows.

    Files that were made with the same settings, as `made` says, are left.
    """
    adapters = adapters_of(record, folder, record.complete if all_kept else (record.baseline, record.best))
    missing = {
        n: adapter for n, adapter in adapters.items() if not answers.are_made(folder / answers.file_of(adapter), made)
    }
    yield from runner.measure("answers", missing, lambda *_: None)


def scores(folder: Path) -> dict[str, dict[str, Mean]]:
    """Means of the metrics by model (`untuned`, `trial-3`) and metric, where answers were scored."""
    found: dict[str, dict[str, Mean]] = {}
    for model, lines in answers.read_all(folder).items():
        if lines and lines[0]["scores"]:
            names = lines[0]["scores"]
            found[model] = {name: mean_interval([line["scores"][name] for line in lines]) for name in names}
    return found


def name_of(trial: RecordedTrial) -> str:
    """A trial's name among the measured."""
    return f"trial-{trial.number}"


def baseline_name(record: Record) -> str:
    """The baseline's name among the measured."""
    return name_of(record.baseline) if record.baseline is not None else "baseline"


def best_against(record: Record, folder: Path, other: str) -> Difference | None:
    """Test loss of the best minus that of `other`, named as in `read`; None where not measured, or the best itself."""
    measured = read(folder)
    best = record.best
    if best is None or name_of(best) not in measured or other not in measured or name_of(best) == other:
        return None
    return paired_difference(rows_of(measured[name_of(best)]), rows_of(measured[other]))


def rows_of(entry: Mapping[str, Any]) -> list[tuple[float, int]]:
    """Per row of what was measured the summed loss and the number of label tokens, out of JSON's lists."""
    return [(float(total), int(count)) for total, count in entry["rows"]]


def _write(folder: Path, measured: dict[str, dict[str, Any]]) -> None:
    path = folder / "evaluation" / "test.json"
    path.parent.mkdir(exist_ok=True)
    whole_file.write(path, json.dumps(measured))
