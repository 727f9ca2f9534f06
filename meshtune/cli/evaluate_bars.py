"""The view of `evaluate`: a bar for each benchmark on a terminal, a line at its end elsewhere; on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import MofNCompleteColumn, TaskID

from meshtune.cli.bars import BarView

if TYPE_CHECKING:
    from meshtune.evaluation.run import Asked


class EvaluateView(BarView):
    """Shows what `evaluate` reports. `show` is the callback."""

    def __init__(self, console: Console):
        super().__init__(console, MofNCompleteColumn())
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._told: set[tuple[str, str]] = set()

    def show(self, event: Asked | str) -> None:
        """Show one event."""
        if isinstance(event, str):
            self._print(event)
            return
        name = (event.candidate, event.benchmark)
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(f"{event.candidate}: {event.benchmark}", total=event.total)
        self._bar.update(self._tasks[name], completed=event.done)
        if event.done == event.total and name not in self._told:
            self._told.add(name)
            self._bar.update(self._tasks[name], visible=False)
            self._print(f"{event.candidate}: {event.benchmark}, {event.total:,} answers")
