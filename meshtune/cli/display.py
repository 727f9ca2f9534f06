"""The view of a run: reads the loop's events and shows them, a live panel on a terminal and plain lines elsewhere.

Everything goes to standard error: standard output is for results. Nothing here decides anything.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from meshtune.cli.bars import QUIET
from meshtune.cli.live import Panel, RunningTrial
from meshtune.plain_text import escaped
from meshtune.record.log import Record
from meshtune.record.scoring import worse_than_untuned
from meshtune.record.trials import RecordedTrial
from meshtune.report.sentences import quantity, result_table, table_lines
from meshtune.study.control import STOPPED
from meshtune.study.loop import (
    Answered,
    Dropped,
    Finished,
    Frozen,
    Opened,
    Promoted,
    Proposed,
    Retried,
    Running,
    Stage,
    Started,
    StudyEvent,
    Thawed,
    TrialFinished,
)
from meshtune.system.text import duration, point
from meshtune.trial import Ending

SHOWN = 4  # running trials in such a line


class Display:
    """Shows one run. Use as a context manager; `show(event)` for each event."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._clock = clock
        self._said = clock()  # when a line was last written
        self._panel = Panel()
        self._record: Record | None = None
        self._slots = 1
        self._advised: set[Ending] = set()
        self._begun = clock()
        self._live = Live(get_renderable=self._drawn, console=console, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, event: StudyEvent) -> None:
        """Show one event."""
        match event:
            case Stage(text):
                self._panel.running.clear()
                say(self._console, f"{text} ..", style="dim")
            case Opened():
                self._open(event)
            case Proposed(trial):
                self._proposed(trial)
            case Started(request):
                self._trial(request.trial)
                self._packs()
            case Running(progress):
                self._trial(progress.trial).take(progress, self._clock())
                self._between()
            case TrialFinished(trial):
                self._ended(trial)
            case Promoted(trial) | Frozen(trial):
                self._promoted(trial)
            case Thawed(trial):
                say(self._console, f"trial {trial.number} goes on: it promises more than a new point")
            case Dropped(trial):
                what = "its state was dropped, since the limit of the disk is reached: it can only begin anew"
                say(self._console, f"trial {trial.number}: {what}")
            case Retried(outcome):
                self._panel.running.pop(outcome.trial, None)
                words = f"attempt {outcome.attempt} crashed, trying again: {outcome.message}"
                say(self._console, f"trial {outcome.trial}: {words}", style="yellow")
            case Answered(answer):
                who = answer.request.by.partition(",")[0]
                words = answer.words if answer.done else f"refused: {answer.words}"
                say(
                    self._console,
                    f"{answer.request.action}, asked by {who}: {words}",
                    style="" if answer.done else "yellow",
                )
            case Finished(reason, complete):
                self._panel.running.clear()
                text = "search finished" if complete else "search stopped"
                say(self._console, f"{text}: {reason}")

    def read_again(self, record: Record, now: Mapping[str, Any]) -> None:
        """Of a run of another process: its record as it stands now, and what the run wrote last."""
        first, self._record = self._record is None, record
        panel = self._panel
        if now:  # else the run has not begun to write, or has ended
            panel.total, panel.price, self._slots = now.get("trials"), now.get("price"), now.get("slots", 1)
        self._begun = self._clock() - record.elapsed if first else self._begun
        running = {int(number): known for number, known in now.get("running", {}).items()}
        for number in panel.running.keys() - running.keys():
            del panel.running[number]
        for number, known in running.items():
            trial = self._trial(number)
            trial.losses = trial.losses or list(known["losses"])
        self._packs()
        if record.trials:
            panel.block = record.trials[-1].block
            members = [trial for trial in record.trials if trial.block == panel.block]
            panel.members, panel.ended = len(members), sum(trial.outcome is not None for trial in members)
        self._stand(record)

    # -- inside

    def _packs(self) -> None:
        """Who is trained together, of those that run."""
        if self._record is None:
            return
        packs = {n: self._record.trials[n].pack for n in self._panel.running if 0 <= n < len(self._record.trials)}
        packs |= {n: each.pack for n, each in self._record.thawing_in.items() if n in packs}
        shared = Counter(packs.values())
        for number, trial in self._panel.running.items():
            trial.pack = packs[number] if number in packs and shared[packs[number]] > 1 else None

    def _drawn(self) -> Panel:
        record = self._record
        self._panel.elapsed = self._clock() - self._begun
        if record is not None:
            self._panel.left = self._left(record)
        return self._panel

    def _open(self, opened: Opened) -> None:
        record = opened.record
        self._record, self._slots = record, opened.slots
        self._begun = self._clock() - record.elapsed
        done = len(record.finished)
        self._panel = Panel(total=opened.trials, price=opened.price)
        self._stand(record)
        for trial in record.pending:
            self._proposed(trial)
        continued = f", continuing after {done} finished trials" if done else ""
        say(self._console, f"study {opened.folder} ({opened.sampler}, {opened.slots} at once{continued})")
        if opened.why:
            say(self._console, f"sampler {opened.sampler}: {opened.why}")
        for text in opened.warnings:
            say(self._console, f"warning: {text}", style="yellow")

    def _proposed(self, trial: RecordedTrial) -> None:
        panel = self._panel
        if trial.block != panel.block:
            panel.block, panel.members, panel.ended = trial.block, 0, 0
        panel.members += 1

    def _trial(self, trial: int) -> RunningTrial:
        title = f"trial {trial}" if trial >= 0 else "measuring"
        if self._record is not None and trial >= 0:
            title += "  " + point(self._record.trials[trial].hyperparameters)
        return self._panel.running.setdefault(trial, RunningTrial(title))

    def _stand(self, record: Record) -> None:
        """What the record says now."""
        panel, best = self._panel, record.best
        panel.done = len(record.finished)
        panel.history = [trial.loss for trial in record.finished]
        panel.baseline = _baseline_loss(record)
        if best is not None:
            panel.best, panel.best_trial = best.loss, best.number

    def _ended(self, trial: RecordedTrial) -> None:
        self._panel.running.pop(trial.number, None)
        outcome, record = trial.outcome, self._record
        if outcome is None or record is None:
            return
        self._panel.ended += trial.block == self._panel.block
        self._stand(record)
        total = self._panel.total
        place = (trial.order or 0) + 1  # seen from another shell, others may have ended since
        line = f"[{place}/{total}] " if total else f"[{place}] "
        line += f"trial {trial.number:<3} "
        if outcome.ending is Ending.COMPLETE and outcome.loss is not None:
            line += f"loss {outcome.loss:.4f}  " + _guiding(record, trial)
            line += "worse than untuned  " if worse_than_untuned(record.notes, trial) else ""
            line += "".join(f"violates {text}  " for text, by in trial.violations.items() if by > 0)
        elif outcome.ending is Ending.STOPPED_EARLY and outcome.loss is not None:
            line += f"stopped early at {outcome.loss:.4f}  "
        else:
            line += f"{outcome.ending.words}  "
        line += f"{point(trial.hyperparameters)}  {outcome.seconds:.0f} s" + self._standing()
        left = self._left(record)
        line += f", about {duration(left)} left" if left else ""
        best = record.best is not None and record.best.number == trial.number
        self._said = self._clock()
        say(self._console, line, style="bold" if best else "")
        if outcome.ending is not Ending.COMPLETE or outcome.message:
            words = f"{outcome.message}. " if outcome.message else ""
            known = (Ending.COMPLETE, *(self._advised & {Ending.STOPPED_EARLY}))  # neither is a fault
            by_hand = outcome.message.startswith(STOPPED)
            if outcome.ending not in known and not by_hand:
                words += outcome.ending.advice
                self._advised.add(outcome.ending)
            if words:
                say(self._console, f"    {words.rstrip()}", style="yellow")

    def _promoted(self, trial: RecordedTrial) -> None:
        self._panel.running.pop(trial.number, None)
        if self._record is None or trial.final is None:
            return
        self._stand(self._record)
        how = trial.final.ending.words if math.isinf(trial.loss) else f"loss {trial.loss:.4f}"
        line = f"trial {trial.number} trained to the end: {how}{self._standing()}"
        if trial.final.ending is Ending.STOPPED_EARLY and trial.final.loss is not None:
            line = f"trial {trial.number} stopped early again at {trial.final.loss:.4f}{self._standing()}"
        say(self._console, line)

    def _standing(self) -> str:
        panel = self._panel
        if panel.best is None:
            return ""
        text = f"  | best {panel.best:.4f} (trial {panel.best_trial})"
        return text + (f", baseline {panel.baseline:.4f}" if panel.baseline is not None else "")

    def _between(self) -> None:
        """Where the running trials are, now and then, for those who read a file; a terminal has the panel."""
        now, record = self._clock(), self._record
        if self._console.is_terminal or record is None or now - self._said < QUIET:
            return
        self._said = now
        trials = [f"trial {n} {trial.where}" for n, trial in self._panel.running.items() if n >= 0 and trial.where]
        left = self._left(record)
        line = ", ".join(trials[:SHOWN]) + (f" and {len(trials) - SHOWN} more" if len(trials) > SHOWN else "")
        line += f"; about {duration(left)} left" if left else ""
        if trials:
            say(self._console, f"    {line}")

    def _left(self, record: Record) -> float | None:
        """Expected seconds until the last trial, or None where that is not known or nothing is left.

        Running trials count as they go: one of a large rank may take many times what the others took.
        """
        total, now = self._panel.total, self._clock()
        whole = [trial.final.seconds for trial in record.finished if trial.final is not None]
        if total is None or total <= len(whole):
            return None
        waiting = total - len(whole)
        found = [trial.expected(now) for number, trial in self._panel.running.items() if number >= 0]
        running = [expected for expected in found if expected is not None]
        whole += [seconds for seconds, _ in running]
        if not whole:
            return None
        left = [rest for _, rest in running]
        mean = sum(whole) / len(whole)
        more = mean * max(0, waiting - len(left))
        return max([(sum(left) + more) / min(self._slots, waiting), *left])


def _baseline_loss(record: Record) -> float | None:
    trial, outside = record.baseline, record.notes.get("baseline") or {}
    return trial.final.loss if trial is not None and trial.final is not None else outside.get("loss")


def _guiding(record: Record, trial: RecordedTrial) -> str:
    """What the objectives and constraints are about, but for the loss and hyperparameters, which are shown anyway."""
    names = [name for name in record.guidance.quantities if name not in trial.hyperparameters]
    held = trial.quantities
    return "".join(f"{name} {quantity(name, held[name])}  " for name in names if name in held)


class JsonLines:
    """Writes one JSON object a line for each event, for programs that follow a run. Use as `Display`."""

    def __init__(self, file: TextIO | None = None):
        self._file = file or sys.stderr

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: StudyEvent) -> None:
        """Write one event."""
        print(json.dumps({"event": type(event).__name__.lower(), **_fields(event)}), file=self._file, flush=True)


def _fields(event: StudyEvent) -> dict[str, Any]:
    match event:
        case Opened():
            done = len(event.record.finished)
            opened = {"folder": str(event.folder), "sampler": event.sampler, "slots": event.slots}
            return {
                **opened,
                "trials": event.trials,
                "done": done,
                "why_sampler": event.why,
                "warnings": list(event.warnings),
            }
        case Proposed(trial):
            return {"trial": trial.number, "block": trial.block, "hyperparameters": dict(trial.hyperparameters)}
        case Started(request):
            return {"trial": request.trial, "attempt": request.attempt}
        case Running(progress):
            return dataclasses.asdict(progress)
        case Thawed(trial) | Dropped(trial):
            return {"trial": trial.number}
        case TrialFinished(trial) | Promoted(trial) | Frozen(trial) if trial.final is not None:
            outcome = dataclasses.asdict(trial.final)
            return {
                name: value for name, value in outcome.items() if name not in ("row_losses", "retry", "lost", "no_room")
            }
        case Answered(answer):
            return answer.noted()
        case Retried(outcome):
            return {"trial": outcome.trial, "attempt": outcome.attempt, "message": outcome.message}
        case Finished(reason, complete):
            return {"reason": reason, "complete": complete}
        case Stage(text):
            return {"text": text}
        case _:
            return {}


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: brackets are no markup, numbers have no colour, and nothing is wrapped."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def summary(console: Console, status: Mapping[str, Any]) -> None:
    """The table at the end: whole in files and pipes; on a terminal long lines of hyperparameters are wrapped."""
    for line in table_lines(*result_table(status), console.width if console.is_terminal else None):
        say(console, line)


def print_rows(rows: Sequence[Sequence[tuple[str, bool]]]) -> None:
    """Print rows of (text, whether it is trained): trained text coloured, or between marks where there is no colour."""
    console = Console(highlight=False, soft_wrap=True)
    coloured = console.color_system is not None and not console.no_color
    for index, row in enumerate(rows):
        console.print(f"\nrow {index + 1}, trained text {'coloured' if coloured else 'between ⟦ and ⟧'}:", style="dim")
        line = Text()
        for text, trained in row:
            shown = escaped(text)
            line.append(f"⟦{shown}⟧" if trained and not coloured else shown, style="bold green" if trained else "")
        console.print(line)
