"""Runs `tune` under the view, with the manners of a terminal and a batch program: signals, time limits, exit codes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from meshtune.cli.display import Display, JsonLines, say, summary
from meshtune.config.sections import is_command
from meshtune.errors import Interrupted, MeshtuneError, Stopped
from meshtune.plan.locate import EFFECTIVE, Located, locate, seen_from_here, typed
from meshtune.report.sentences import (
    course,
    crash_lines,
    goal_lines,
    harm,
    load_lines,
    quantity,
    round_lines,
    usage,
    verdict,
    without_feasible,
)
from meshtune.study import float32_check
from meshtune.study.loop import Finished, Frozen, Opened, Promoted, Started, TrialFinished
from meshtune.study.rounds import tune
from meshtune.study.signals import GRACE_SECONDS, Signals, time_limit
from meshtune.study.status import status as read_status
from meshtune.system.text import number, point


def watch(
    path: Path,
    *,
    overrides: tuple[str, ...] = (),
    folder: Path | None = None,
    new_segment: bool = False,
    as_json: bool = False,
    limit: str | None = None,
) -> dict[str, Any]:
    """Run or continue a study and show it, to people or as JSON lines; returns its status.

    Args:
        limit: how long this run may take, as `--time-limit`.

    Raises Stopped (exit code 75) where it was asked to stop or its time was over, Interrupted (130) on Ctrl-C.
    """
    study = locate(path, overrides=overrides, folder=folder)
    console = console_for(stderr=True)
    view = JsonLines() if as_json else Display(console)
    _run(study, view, new_segment=new_segment, limit=limit)
    status = read_status(study.folder, trials=True)
    if not as_json:
        print_status(status, console)
    if words := without_feasible(status):
        raise MeshtuneError(f"{words} Loosen them, or search a space that has such points, in another study")
    if status["best"] is None:
        shown = f"`meshtune status {typed(study.folder)} --trials`"
        raise MeshtuneError(f"no trial completed, so there is no best one: {shown} says how each ended")
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
    line = f"{seen_from_here(Path(status['folder']))}: {state}; trials: {counts or 'none'}"
    say(console, line)
    for text in round_lines(status):
        say(console, text)
    summary(console, status)
    for text in goal_lines(status):
        say(console, text)
    if status.get("why_sampler"):
        say(console, f"sampler {status['sampler']}: {status['why_sampler']}")
    if words := harm(status):
        say(console, words, style="yellow")
    for name, value in usage(status):
        say(console, f"{name}: {value}")
    if status["state"] == "finished":
        if lines := load_lines(status):
            say(console, "The best adapter, in plain PEFT:")
            say(console, "    " + lines.replace("\n", "\n    "))
        say(console, verdict(status), style="bold")
        if status["order_checked"]:
            say(console, float32_check.sentence(status["order_checked"]))
        say(console, _next(status))
    if status.get("noted") and status["state"] != "running":
        say(console, status["noted"]["message"], style="yellow")
    for text in (crashed := crash_lines(status)):
        say(console, text, style="yellow")
    if crashed:
        folder = typed(Path(status["folder"]))
        say(console, f"    logs: {folder}/logs; points of all trials: `meshtune status {folder} --trials`")


def _next(status: dict[str, Any]) -> str:
    folder = typed(Path(status["folder"]))
    lines = [f"next: meshtune report {folder}  (one page with all of it)"]
    if (status["best"] or {}).get("adapter") and status["objective"] != "command":
        lines.append(f"      meshtune export {folder} OUT  (the adapter with a model card; --merge: a plain model)")
    return "\n".join(lines)


def print_trials(status: dict[str, Any]) -> None:
    """One line a trial."""
    for trial in status["all"]:
        ending = (trial["ending"] or "pending").replace("_", " ")
        words = f"trial {trial['trial']:<4} {ending:<14} {number(trial['loss']):>8}"
        guiding = ", ".join(f"{name} {quantity(name, value)}" for name, value in trial["quantities"].items())
        worse = "worse than untuned" if trial["worse_than_untuned"] else ""
        violated = ", ".join(f"violates {text}" for text, by in trial["violations"].items() if by > 0)
        what = point(trial["hyperparameters"]), course(trial), worse, guiding, violated, trial["message"]
        line = "  ".join(filter(None, (words, *what)))
        say(console_for(stderr=False), line.rstrip())


def _run(study: Located, view: Display | JsonLines, *, new_segment: bool, limit: str | None) -> None:
    """Run to the end. Raises Stopped or Interrupted where the end came early."""
    until = time_limit(limit, os.environ)
    signals = Signals(lambda: max(GRACE_SECONDS, until.left()) if until else GRACE_SECONDS)
    events = tune(
        study, new_segment=new_segment, stop=lambda: signals.stop() or (until.stop() if until is not None else None)
    )
    finished, running = None, set[int]()
    with signals.taken(), view:
        try:
            for event in events:
                view.show(event)
                match event:
                    case Opened():
                        signals.cooperative = True
                        running.clear()
                    case Started(request):
                        running.add(request.trial)
                    case TrialFinished(trial) | Promoted(trial) | Frozen(trial):
                        running.discard(trial.number)
                    case Finished():
                        finished = event
        except KeyboardInterrupt:  # before anything ran
            came = signals.stop()
            finished = Finished(came.reason if came is not None else "interrupted", complete=False)
        finally:
            events.close()
    if finished is None or finished.complete:
        return
    words = _words(finished.reason, sorted(running), study)
    raise Interrupted(words) if signals.interrupted else Stopped(words)


def _words(reason: str, suspended: list[int], study: Located) -> str:
    """What a run that was stopped says at its end: one line."""
    kept = ""
    if suspended:
        numbers = ", ".join(map(str, suspended))
        trials = f"Trial {numbers} was" if len(suspended) == 1 else f"Trials {numbers} were"
        them, whose = ("it", "its") if len(suspended) == 1 else ("them", "their")
        again = f"goes on with {them} from {whose} last checkpoint, or from the start where there is none"
        if is_command(study.config.objective):
            again = f"starts the program again for {them}"
        kept = f" {trials} running: the next run {again}."
    # The folder's own study.yaml holds what was overridden; it is written once the study has begun.
    begun = (study.folder / EFFECTIVE).is_file()
    again = f"Continue with `meshtune tune {typed(study.folder) if begun else shlex.quote(str(study.source))}`"
    return f"{reason}; everything finished is saved.{kept} {again}"
