"""The view of `evaluate`: a bar for each benchmark on a terminal, a line at its end elsewhere; on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from meshtune.evaluation.run import Asked


class EvaluateView:
    """Shows what `evaluate` reports. Use as a context manager; `show` is the callback."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._told: set[tuple[str, str]] = set()

    def __enter__(self) -> EvaluateView:
        self._bar.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bar.stop()

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

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
