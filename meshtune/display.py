"""The view of a run: reads the loop's events and shows them, a live view on a terminal and plain lines elsewhere.

Everything goes to standard error: standard output is for results. Nothing here decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from meshtune.record import Record
from meshtune.recorded import RecordedTrial
from meshtune.study import Finished, Opened, Retried, Running, Stage, Started, StudyEvent, Told
from meshtune.trial import Ending
from meshtune.trial import Progress as TrialProgress

SHORT = {"learning_rate": "lr", "weight_decay": "wd"}


class Display:
    """Shows one run. Use as a context manager; `show(event)` for each event."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._record: Record | None = None
        self._total: int | None = None
        self._slots = 1

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: StudyEvent) -> None:
        """Show one event."""
        match event:
            case Stage(text):
                self._console.print(f"{text} ..", style="dim")
            case Opened():
                self._open(event)
            case Started(request):
                self._task(request.trial)
            case Running(progress):
                self._progress(progress)
            case Told(trial):
                self._told(trial)
            case Retried(outcome):
                self._remove(outcome.trial)
                self._console.print(
                    f"trial {outcome.trial}: attempt {outcome.attempt} crashed, trying again: {outcome.message}",
                    style="yellow",
                    markup=False,
                )
            case Finished(reason, complete):
                self._clear()
                text = "search finished" if complete else "search stopped"
                self._console.print(f"{text}: {reason}", markup=False)

    # -- inside

    def _open(self, opened: Opened) -> None:
        self._record, self._slots = opened.record, opened.slots
        self._total = opened.trials
        done = len(opened.record.told)
        continued = f", continuing after {done} finished trials" if done else ""
        self._console.print(
            f"study {opened.folder} ({opened.sampler}, {opened.slots} at once{continued})", markup=False, soft_wrap=True
        )

    def _task(self, trial: int) -> None:
        if trial not in self._tasks:
            name = f"trial {trial}" if trial >= 0 else "measuring"
            self._tasks[trial] = self._live.add_task(name, total=None, state="")

    def _progress(self, progress: TrialProgress) -> None:
        self._task(progress.trial)
        share = progress.step / progress.steps if progress.steps else 0.0
        parts = [f"step {progress.step}/{progress.steps}"] if progress.steps else []
        if progress.training_loss is not None:
            parts.append(f"training loss {progress.training_loss:.4f}")
        if progress.validation_loss is not None:
            parts.append(f"validation loss {progress.validation_loss:.4f}")
        task = self._tasks[progress.trial]
        if progress.steps:
            self._live.update(task, total=1.0, completed=share)
        if parts:
            self._live.update(task, state=", ".join(parts))

    def _told(self, trial: RecordedTrial) -> None:
        self._remove(trial.number)
        outcome, record = trial.outcome, self._record
        if outcome is None or record is None:
            return
        count = f"{len(record.told)}/{self._total}" if self._total else str(len(record.told))
        line = f"[{count}] trial {trial.number:<3} "
        if outcome.ending is Ending.COMPLETE and outcome.loss is not None:
            line += f"loss {outcome.loss:.4f}  "
        else:
            line += f"{outcome.ending.value}  "
        line += f"{point(trial.hyperparameters)}  {outcome.seconds:.0f} s"
        line += self._standing(record) + self._left(record)
        best = record.best is not None and record.best.number == trial.number
        self._console.print(line, markup=False, highlight=False, soft_wrap=True, style="bold" if best else "")
        if outcome.ending is not Ending.COMPLETE:
            words = f"{outcome.message}. " if outcome.message else ""
            self._console.print(f"    {words}{outcome.ending.advice}", markup=False, style="yellow", soft_wrap=True)

    def _standing(self, record: Record) -> str:
        best, baseline = record.best, record.baseline
        if best is None or best.outcome is None or best.outcome.loss is None:
            return ""
        text = f"  | best {best.outcome.loss:.4f} (trial {best.number})"
        loss = baseline.outcome.loss if baseline is not None and baseline.outcome is not None else None
        if loss is None and record.notes.get("baseline"):
            loss = record.notes["baseline"]["loss"]
        return text + (f", baseline {loss:.4f}" if loss is not None else "")

    def _left(self, record: Record) -> str:
        if self._total is None or self._total <= len(record.told):
            return ""
        done = [trial.outcome.seconds for trial in record.told if trial.outcome is not None]
        seconds = sum(done) / len(done) * (self._total - len(record.told)) / self._slots
        return f", about {duration(seconds)} left"

    def _remove(self, trial: int) -> None:
        if trial in self._tasks:
            self._live.remove_task(self._tasks.pop(trial))

    def _clear(self) -> None:
        for trial in list(self._tasks):
            self._remove(trial)


def summary(console: Console, status: Mapping[str, Any]) -> None:
    """The table at the end, the verdict, and how to load the best adapter."""
    tested = any((status.get(name) or {}).get("test_loss") is not None for name in ("untuned", "baseline", "best"))
    columns = ["", "hyperparameters", "validation loss", *(["test loss", "best minus this (95 %)"] if tested else [])]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in ("", "hyperparameters") else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for name in ("untuned", "baseline", "best"):
        entry = status.get(name)
        if entry is None:
            continue
        title = f"best (trial {entry['trial']})" if name == "best" else name
        hyperparameters = point(entry["hyperparameters"]) if "hyperparameters" in entry else "no adapter"
        difference = status.get(f"best_against_{name}")
        interval = "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference) if difference else ""
        cells = [title, hyperparameters, number(entry["loss"]), number(entry.get("test_loss")), interval]
        table.add_row(*cells[: len(columns)])
    console.print(table)


def verdict(status: Mapping[str, Any]) -> str:
    """One line: by how much the best beats the baseline on the test rows, or that it does not."""
    best, baseline = status.get("best"), status.get("baseline")
    if best is None:
        return "No trial completed: look at `meshtune status --trials` for what happened."
    difference = status.get("best_against_baseline")
    if baseline is None:
        return f"Best: trial {best['trial']}, loss {number(best['loss'])}."
    if best.get("trial") == baseline.get("trial"):
        return "The baseline itself is the best point found: it was not beaten."
    if difference is None:
        losses = f"loss {number(best['loss'])}, the baseline's is {number(baseline['loss'])}"
        return f"Best: trial {best['trial']}, {losses} (no test rows: how much of it is luck is not known)."
    mean, low, high, rows = (difference[key] for key in ("mean", "low", "high", "rows"))
    evidence = f"95 % interval of the difference {low:+.4f} to {high:+.4f}, {rows} unseen rows"
    if high < 0:
        gain = 100 * -mean / baseline["test_loss"]
        return f"The best beats the baseline by {-mean:.4f} in test loss, {gain:.1f} % ({evidence})."
    if low > 0:
        return f"The best is worse than the baseline by {mean:.4f} in test loss ({evidence}): keep the baseline."
    side = "lower" if mean <= 0 else "higher"
    return f"The best does not beat the baseline beyond noise: its test loss is {abs(mean):.4f} {side} ({evidence})."


def load_lines(status: Mapping[str, Any]) -> str | None:
    """Three lines of Python that load the best adapter in plain PEFT."""
    best = status.get("best")
    if best is None or not best.get("adapter"):
        return None
    return (
        "from peft import AutoPeftModelForCausalLM\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{status["folder"]}/{best["adapter"]}")\n'
        "model = model.merge_and_unload()  # optional: a plain model with the adapter inside"
    )


def point(hyperparameters: Mapping[str, Any]) -> str:
    """Hyperparameters in one short line."""
    return " ".join(f"{SHORT.get(name, name)} {number(value, 3)}" for name, value in hyperparameters.items())


def number(value: Any, digits: int = 5) -> str:
    """A number as people write it; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
            mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
            return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `3.2 h`."""
    if not math.isfinite(seconds) or seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
