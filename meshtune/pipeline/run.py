"""Runs a pipeline: faults of all steps first, then each step that is not done yet, with its cost said before it starts.

A step is a program of its own. It is done where `steps/NAME.json` in the results' folder says that it ended well with
these arguments, these files and these steps before it, and where the files that it was told to write are there. So a
killed run goes on: finished steps are passed over, and the step that was cut off goes on by its own record.
What it does not do: undo. A study whose fixed keys have changed is refused by `tune`, as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from meshtune.config.file import named_files, shown
from meshtune.errors import Fault, InputError, Interrupted, MeshtuneError, StorageError, nearest, refuse
from meshtune.pipeline import mark
from meshtune.pipeline.file import Pipeline, Step
from meshtune.plan.locate import locate
from meshtune.study.check import check
from meshtune.system import whole_file
from meshtune.system.text import counted

READERS = ("evaluate", "select", "report", "train", "export")  # of studies
MAKERS = ("train", "export")  # of the folder that their second argument names
VOTES = "prefer create"  # what it makes is never replaced: people have voted in it
WAIT_SECONDS = 120.0  # for the step of a killed run to save where it is
Usage = Callable[[Sequence[str]], str | None]  # what is wrong with a command line


class StepFailed(MeshtuneError):
    """A step did not end well; `exit_code` is the step's."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code if code > 0 else 1


def run(
    pipeline: Pipeline,
    *,
    usage: Usage,
    start: str | None = None,
    dry: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Run the steps that are not done; returns their names.

    Args:
        usage: tells what is wrong with a command line, or gives None.
        start: do this step and all after it again, even where they are done; those before it must be done.
        dry: find the faults and say the costs; run nothing.

    Raises:
        InputError: faults of any step; nothing has run.
        StepFailed: a step ended badly, or stopped before its end (exit code 75); the same call goes on.
        Interrupted: Ctrl-C came, and the step that ran has ended all the same; the same call goes on.
    """
    costs = _costs(pipeline, usage)
    at = _first(pipeline, start)
    ran, before = list[str](), ""
    with contextlib.nullcontext() if dry else _alone(pipeline.out, say) as lock:
        for number, step in enumerate(pipeline.steps):
            before = _digest(pipeline, step, before)
            head = f"[{number + 1}/{len(pipeline.steps)}] {step.name}"
            done = _done(pipeline, step, before)
            if done and (number < at or start is None or step.command == VOTES):
                say(f"{head}: done")
                continue
            if number < at:
                raise InputError(f"--from {start}: the step {step.name} before it is not done; leave out --from")
            say(f"{head}: {costs[step.name]}\n    {step.shown}")
            if not dry:
                assert isinstance(lock, int)
                _execute(pipeline, step, before, lock, say)
                ran.append(step.name)
    return ran


def _first(pipeline: Pipeline, start: str | None) -> int:
    names = [step.name for step in pipeline.steps]
    if start is not None and start not in names:
        raise InputError(f"--from {start}: there is no such step{nearest(start, names)}; there are {', '.join(names)}")
    return names.index(start) if start else 0


def _costs(pipeline: Pipeline, usage: Usage) -> dict[str, str]:
    """What each step costs, in words. Raises InputError with the faults of all steps."""
    faults, costs, before = list[Fault](), dict[str, str](), ""
    made = {str(step.options.get("folder")) for step in pipeline.steps if step.command == "tune"}
    written = list[Path]()
    told = True  # whether all that steps make is known from their options
    for step in pipeline.steps:
        told &= step.command != "python" and (step.command != "tune" or "folder" in step.options)
        there, written = written, [*written, *_made(pipeline, step)]  # by the steps before it
        before = _digest(pipeline, step, before)
        if _done(pipeline, step, before):
            costs[step.name] = "done before"
            continue
        if step.command == "python":
            script = pipeline.folder / (step.arguments or ("",))[0]
            wrong = None if script.is_file() else f"there is no script {script}"
        else:
            wrong = usage(step.bound)
        if wrong:
            faults.append(Fault(wrong, pipeline.path, None, step.name))
            continue
        try:
            costs[step.name] = _cost(pipeline, step, made)
        except InputError as error:
            faults += [Fault(f"{fault}", pipeline.path, None, step.name) for fault in error.faults]
        if told:
            faults += _missing(pipeline, step, there)
        faults += _in_the_way(pipeline, step)
    refuse(faults)
    return costs


def _missing(pipeline: Pipeline, step: Step, made: Collection[Path]) -> list[Fault]:
    """What a step reads that is not there, and that no step before it will have made."""
    if step.command not in READERS:
        return []
    studies = step.arguments[:1] if step.command in MAKERS else step.arguments
    read = [*((step.command, study) for study in studies), *(("data", each) for each in step.given("data"))]
    return [
        Fault(
            f"{key} {given}: there is no such file or folder, and no step before it makes it",
            pipeline.path,
            None,
            step.name,
        )
        for key, given in read
        for path in [pipeline.folder / given]
        if not path.exists() and not any(path.is_relative_to(each) for each in made)
    ]


def _in_the_way(pipeline: Pipeline, step: Step) -> list[Fault]:
    """What stands where the step would write a folder of its own, and must not be replaced or put aside."""
    if step.command not in (*MAKERS, VOTES):
        return []
    own = mark.read(_mark(pipeline, step)).get("made", ()) if step.command in MAKERS else ()
    what = (
        "a preference study of other models or questions"
        if step.command == VOTES
        else "something that this step is not known to have made"
    )
    return [
        Fault(f"{path}: {what} stands there, and is not replaced: move it away", pipeline.path, None, step.name)
        for path in _made(pipeline, step)
        if str(path) not in own and path.exists() and not (path.is_dir() and not any(path.iterdir()))
    ]


def _put_aside(pipeline: Pipeline, step: Step, say: Callable[[str], None]) -> None:
    """Where `train` or `export` made its folder before: keep that beside the new one. Raises StorageError."""
    for path in _made(pipeline, step) if step.command in MAKERS else ():
        if path.exists():
            aside = path.with_name(f"{path.name}.before")
            with whole_file.writing(aside):
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            say(f"    what {step.name} made before is now {aside}")


def _cost(pipeline: Pipeline, step: Step, made: Collection[str]) -> str:
    """`made`: the studies' folders that steps will have made, which need not be there yet."""
    match step.command:
        case "tune":
            later = {f"warm_start={folder}" for folder in made}  # there is no trial in it yet; `tune` itself checks it
            overrides = tuple(word for word in _overrides(step) if word not in later)
            folder = step.options.get("folder")
            path = pipeline.folder / step.arguments[0]
            located = locate(path, overrides=overrides, folder=folder and Path(folder))
            check(path, overrides=overrides, folder=folder and Path(folder), measure=False)
            budget = shown(located.config, exclude_none=True).get("budget", {})
            limits = ", ".join(
                f"{value:,} {key.replace('_', ' ')}" for key, value in budget.items() if key != "price_per_hour"
            )
            epochs = located.config.training.epochs
            of = f", {counted(epochs, 'epoch')} each" if located.config.model is not None else ""
            return f"trains {limits}{of}; `meshtune check` measures the time"
        case "evaluate":
            models = " and ".join(f"{step.options[key]} {key}" for key in ("best", "worst") if key in step.options)
            items = counted(int(step.options["limit"]), "item") if "limit" in step.options else "all items"
            return f"asks {models or 'the candidates'}, the baseline and the untuned model {items} of each benchmark"
        case "prefer create":
            count = step.options.get("sample", "all")
            questions = pipeline.folder / str(step.options["questions"])
            if not questions.exists() and not questions.is_relative_to(pipeline.out):
                raise InputError(f"--questions {questions}: there is no such file")
            return f"two models answer {count} questions"
        case "train" | "export":
            return "trains or writes one adapter"
        case "python":
            return "runs a script, whose cost is not known"
        case _:
            return "seconds; nothing is trained"


def _overrides(step: Step) -> tuple[str, ...]:
    """What a `tune` changes of its study.yaml."""
    trials = step.options.get("trials")
    return (*step.given("set"), *([f"budget.trials={trials}"] if trials is not None else []))


def _digest(pipeline: Pipeline, step: Step, before: str) -> str:
    """What the step rests on; of a search also the files that its study.yaml names."""
    named: list[Path] = []
    if step.command == "tune" and step.arguments:
        with contextlib.suppress(InputError):  # its faults are said with those of all steps
            named = named_files(locate(pipeline.folder / step.arguments[0], overrides=_overrides(step)).config)
    return step.digest(pipeline.folder, before, named)


def _mark(pipeline: Pipeline, step: Step) -> Path:
    return pipeline.out / "steps" / f"{step.name}.json"


def _made(pipeline: Pipeline, step: Step) -> list[Path]:
    """The files and folders that the step was told to write, by an option or by an argument."""
    told = [step.options[key] for key in ("out", "folder", "figures") if isinstance(step.options.get(key), str)]
    return [pipeline.folder / each for each in (*told, *(step.arguments[1:] if step.command in MAKERS else ()))]


def _done(pipeline: Pipeline, step: Step, digest: str) -> bool:
    known = mark.read(_mark(pipeline, step))
    there = all(path.exists() for path in _made(pipeline, step))
    # A preference study is made whole or not at all, and a second one in its place is refused.
    ended = known.get("ended") or (step.command == VOTES and "out" in step.options)
    return bool(there and ended and known.get("digest") == digest)


def _execute(pipeline: Pipeline, step: Step, digest: str, lock: int, say: Callable[[str], None]) -> None:
    refuse(_in_the_way(pipeline, step))  # a script may have changed what the step rests on
    path = _mark(pipeline, step)
    before = mark.read(path).get("processor_seconds", 0.0)
    _put_aside(pipeline, step, say)
    made = [str(each) for each in _made(pipeline, step)]
    begun = {"digest": digest, "command": step.shown, "made": made, "processor_seconds": before}
    mark.write(path, begun)
    began, used = time.monotonic(), mark.children()
    program = [] if step.command == "python" else ["-m", "meshtune.cli.step", str(path)]
    with subprocess.Popen(
        [sys.executable, *program, *step.words],
        cwd=pipeline.folder,
        stdin=subprocess.PIPE,  # it ends with us
        pass_fds=(lock,),  # and the next run waits for it
    ) as child:
        code, interrupted = _wait(child)
    used = mark.children() - used
    if code == -signal.SIGINT:  # a script that does nothing on Ctrl-C
        code = Interrupted.exit_code
    if code:
        mark.write(path, begun, more=used)
        again = "the same command goes on there" if code in (75, 130) else "mend it, then run the same command again"
        raise StepFailed(f"the step {step.name} ended with exit code {code}: {again}", code)
    seconds = round(time.monotonic() - began, 1)
    mark.write(path, {**begun, "ended": True, "seconds": seconds}, more=used)
    say(f"    done in {seconds:,.0f} s")
    if interrupted:
        raise Interrupted(f"interrupted: the step {step.name} is done; the same command goes on behind it")


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, bool]:
    """The exit code, and whether we were interrupted meanwhile."""
    interrupted = False
    while True:
        try:
            return child.wait(), interrupted
        except KeyboardInterrupt:  # the terminal has told the step too, which saves where it is
            interrupted = True


@contextlib.contextmanager
def _alone(out: Path, say: Callable[[str], None]) -> Iterator[int]:
    """One run at a time, which begins when the step of a killed run has ended. Yields the lock that steps hold."""
    held = list[int]()
    try:
        for name in ("run", "lock"):  # the first is ours alone: whoever holds it is a run
            with whole_file.writing(out):
                (out / "steps").mkdir(parents=True, exist_ok=True)
                held.append(os.open(out / "steps" / name, os.O_RDWR | os.O_CREAT, 0o644))
            _lock(held[-1], out, 0.0 if name == "run" else WAIT_SECONDS, say)
        yield held[-1]
    finally:
        for each in held:
            os.close(each)


def _lock(file: int, out: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Lock the file, if it comes free within so many seconds. Raises StorageError."""
    until, told = time.monotonic() + seconds, False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                who = "the step of a killed run" if seconds else "another run of this pipeline"
                raise StorageError(f"{out}: {who} is at work; wait for it or end it") from None
        if not told:
            say("waiting for the step of a killed run to end ..")
        told = True
        time.sleep(0.2)
