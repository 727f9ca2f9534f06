"""The view of `train`: a bar with the time left on a terminal, a line at each tenth elsewhere; on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from meshtune.trial import Progress as TrialProgress


class TrainView:
    """Shows what `train` reports. Use as a context manager; `show` is the callback."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._tenth = 0

    def __enter__(self) -> TrainView:
        self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, event: TrialProgress | str) -> None:
        """Show one event."""
        if isinstance(event, str):
            self._console.print(event, markup=False, highlight=False, soft_wrap=True)
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
            self._console.print(state, markup=False, highlight=False, soft_wrap=True)
