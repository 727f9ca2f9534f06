"""Bars of progress of `evaluate` and `train` on a terminal, and lines elsewhere; on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from meshtune.system.text import counted
from meshtune.trial import Progress as TrialProgress

if TYPE_CHECKING:
    from meshtune.evaluation.run import AnswerProgress

QUIET = 60.0  # seconds without a line in a file, after which one says how far it is


class BarView:
    """Use as a context manager. `states`: the columns between a bar and the time that is left."""

    def __init__(self, console: Console, *states: ProgressColumn):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *states,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class EvaluateView(BarView):
    """Shows what `evaluate` reports: a bar for each benchmark, a line at its end. `show` is the callback.

    Elsewhere than on a terminal, which has no bars, a line after a minute without one says how far the answers are.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        super().__init__(console, MofNCompleteColumn())
        self._clock = clock
        self._said = clock()
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._ended: set[tuple[str, str]] = set()

    def show(self, event: AnswerProgress | str) -> None:
        """Show one event."""
        if isinstance(event, str):
            self._print(event)
            return
        name = (event.candidate, event.benchmark)
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(f"{event.candidate}: {event.benchmark}", total=event.total)
        self._bar.update(self._tasks[name], completed=event.done)
        if event.done == event.total and name not in self._ended:
            self._ended.add(name)
            self._bar.update(self._tasks[name], visible=False)
            self._print(f"{event.candidate}: {event.benchmark}, {counted(event.total, 'answer')}")
        elif not self._console.is_terminal and self._clock() - self._said >= QUIET:
            self._print(f"    {event.candidate}: {event.benchmark}, {event.done:,} of {counted(event.total, 'answer')}")

    def _print(self, text: str) -> None:
        super()._print(text)
        self._said = self._clock()


class TrainView(BarView):
    """Shows what `train` reports: a bar with the time left, elsewhere a line at each tenth. `show` is the callback."""

    def __init__(self, console: Console):
        super().__init__(console, TextColumn("{task.fields[state]}"))
        self._task: TaskID | None = None
        self._tenth = 0

    def show(self, event: TrialProgress | str) -> None:
        """Show one event."""
        if isinstance(event, str):
            self._print(event)
            return
        if not event.steps:
            return
        loss = "" if event.training_loss is None else f", training loss {event.training_loss:.4f}"
        state = f"step {event.step}/{event.steps}{loss}"
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task("training", total=event.steps, state=state)
            self._bar.update(self._task, completed=event.step)
            if loss:
                self._bar.update(self._task, state=state)
        elif (tenth := 10 * event.step // event.steps) > self._tenth and loss:
            self._tenth = tenth
            self._print(state)
