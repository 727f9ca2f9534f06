"""Runs `tune` under the view, with the manners of a terminal program: Ctrl-C, exit codes, the table at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from meshtune.commands.locate import Located, locate
from meshtune.commands.status import status as read_status
from meshtune.commands.tune import tune
from meshtune.display import Display, JsonLines, summary
from meshtune.errors import Interrupted, Stopped
from meshtune.study import Finished, Opened
from meshtune.words import load_lines, number, point, verdict


def watch(
    path: Path,
    *,
    overrides: tuple[str, ...] = (),
    folder: Path | None = None,
    new_segment: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Run or continue a study and show it, to people or as JSON lines; returns its status.

    Raises Stopped (exit code 75) where it was asked to stop, Interrupted (130) on Ctrl-C.
    """
    study = locate(path, overrides=overrides, folder=folder)
    console = console_for(stderr=True)
    view = JsonLines() if as_json else Display(console)
    finished = _run(study, view, path, new_segment=new_segment)
    status = read_status(study.folder, trials=True)
    if finished is not None and not finished.complete:
        raise Stopped(f"stopped before the budget was spent; continue with `meshtune tune {path}`")
    if not as_json:
        print_status(status, console)
    return status


def console_for(*, stderr: bool) -> Console:
    """A console whose lines are wide where nobody's terminal limits them."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def print_status(status: dict[str, Any], console: Console | None = None) -> None:
    """Where a study stands, for people."""
    console = console or console_for(stderr=False)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in status["trials"].items() if count)
    state = status["state"] + (f" ({status['reason']})" if status["state"] == "finished" else "")
    console.print(f"{status['folder']}: {state}; trials: {counts or 'none'}", soft_wrap=True, highlight=False)
    summary(console, status)
    if status["state"] == "finished":
        if lines := load_lines(status):
            console.print("The best adapter, in plain PEFT:", highlight=False)
            console.print("    " + lines.replace("\n", "\n    "), markup=False, highlight=False, soft_wrap=True)
        console.print(verdict(status), style="bold", markup=False, highlight=False, soft_wrap=True)


def print_trials(status: dict[str, Any]) -> None:
    """One line a trial."""
    for trial in status["all"]:
        words = f"trial {trial['trial']:<4} {trial['ending'] or 'pending':<14} {number(trial['loss']):>8}"
        line = f"{words}  {point(trial['hyperparameters'])}  {trial['message']}"
        console_for(stderr=False).print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)


def _run(study: Located, view: Display | JsonLines, path: Path, *, new_segment: bool) -> Finished | None:
    finished: Finished | None = None
    pending: list[int] = []
    events = tune(study, new_segment=new_segment)
    with _second_interrupt_ends(), view:
        record = None
        try:
            for event in events:
                view.show(event)
                if isinstance(event, Opened):
                    record = event.record
                if isinstance(event, Finished):
                    finished = event
        except KeyboardInterrupt:
            pending = [trial.number for trial in record.pending] if record is not None else []
            events.close()
            what = f" Trials {', '.join(map(str, pending))} were abandoned and will run again." if pending else ""
            raise Interrupted(
                f"interrupted; everything finished is saved.{what} Continue with `meshtune tune {path}`"
            ) from None
        finally:
            events.close()
    return finished


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt; the second ends the process now (its children end with it)."""
    count = 0

    def on_interrupt(_: int, __: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            os._exit(130)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
