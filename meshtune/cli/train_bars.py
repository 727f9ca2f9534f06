"""The view of `train`: a bar with the time left on a terminal, a line at each tenth elsewhere; on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import TaskID, TextColumn

from meshtune.cli.bars import BarView
from meshtune.trial import Progress as TrialProgress


class TrainView(BarView):
    """Shows what `train` reports. `show` is the callback."""

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
