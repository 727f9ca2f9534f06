"""Another fine-tuning tool as the black box: it trains with the user's own settings, in which each trial changes some.

A trial's file and output are in `<folder>/trainer/trial-N/`; `tools.py` makes the file, and the tool runs as a program
does (`command.py`). Its loss is what its own logs say (`trainer_log.py`). Where trials are stopped early, a rung is the
first evaluation at or behind it: the tool is not held up there, and is asked to end once that is decided. Its rungs are
counted in thousandths of an epoch, for the tool's tokens are not known before it has trained.
A trial that goes on elsewhere, or is promoted, starts over: what the tool could resume from is not used.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.config.sections import ToolName
from meshtune.objectives import tools, trainer_log
from meshtune.objectives.command import LARGEST, POLL_SECONDS, Program, last_words, name_of
from meshtune.objectives.decisions import Decisions
from meshtune.objectives.trainer_log import Log, Reader
from meshtune.system import yaml_file
from meshtune.trial import AT_ONCE, Decision, Ending, Event, Outcome, Progress, Request, Rung, Verdict

FOLDER = "trainer"
SETTINGS, OUTPUT = "config.yml", "output"
PER_EPOCH = 1000  # of what rungs are counted in
GRACE_SECONDS = 20.0  # for a tool that is asked to end to do so by itself
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class TrainerSpec:
    """What to run.

    Attributes:
        tool: whose settings `values` are. command: with `{config}`. folder: the study's. directory: where it runs.
        at: `best` or `last`. kept: whether its checkpoints are. adapter: whether it trains one.
        also: further numbers of an evaluation that guide the search.
    """

    tool: ToolName
    values: Mapping[str, Any]
    command: Sequence[str]
    folder: str
    directory: str
    at: str
    kept: bool
    adapter: bool
    also: Sequence[str] = ()


class TrainerObjective:
    """Runs the tool once a request, one after the other."""

    def __init__(self, spec: TrainerSpec):
        self.spec = spec
        self._suspended = False
        self._decisions = Decisions()

    def suspend(self) -> None:
        """As the objective seam says; the tool is killed, and starts over."""
        self._suspended = True

    def decide(self, decision: Decision) -> None:
        """As the objective seam says."""
        self._decisions.decide(decision)

    def join(self, pack: int, request: Request) -> bool:
        """Nothing joins a program that runs."""
        return False

    def evaluate(self, requests: Sequence[Request]) -> Iterator[Event]:
        """As the objective seam says."""
        for request in requests:
            if not self._suspended:
                yield from self._evaluate(request)

    def _evaluate(self, request: Request) -> Iterator[Event]:
        spec, place = self.spec, Path(FOLDER) / name_of(request)
        home = Path(spec.folder) / place
        command = [part.replace("{config}", str(home / SETTINGS)) for part in spec.command]
        program = Program(Path(spec.folder), request, command, spec.directory, {"PYTHONUNBUFFERED": "1"})
        if program.living:
            yield program.cannot_begin()
            return
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        made = tools.settings(
            spec.tool,
            spec.values,
            request.hyperparameters,
            seed=request.seed,
            output=str(home / OUTPUT),
            at=spec.at,
            adapter=spec.adapter,
        )
        (home / SETTINGS).write_text(yaml_file.dump_for_tools(made), encoding="utf-8")
        self._decisions.begin([request])
        trial = _Trial(request, home / OUTPUT, program, self._decisions)
        with program:
            yield from trial.run(lambda: self._suspended)
        if trial.ending is not None:
            yield self._outcome(trial, place / OUTPUT)

    def _outcome(self, trial: _Trial, output: Path) -> Outcome:
        outcome = trial.outcome(self.spec.at, self.spec.also)
        folder = Path(self.spec.folder) / output
        if outcome.ending is not Ending.COMPLETE or not self.spec.kept:
            shutil.rmtree(folder, ignore_errors=True)
            return outcome
        saved = adapter_in(folder)
        for checkpoint in folder.glob("checkpoint-*"):
            if saved is not None and checkpoint != saved:
                shutil.rmtree(checkpoint, ignore_errors=True)
        place = output if saved is None else output / saved.relative_to(folder)
        return Outcome(**{**vars(outcome), "adapter": str(place)}) if folder.is_dir() else outcome


def adapter_in(output: Path) -> Path | None:
    """The folder that holds the adapter which a tool saved at its end, else in its last checkpoint."""
    checkpoints = sorted(output.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    there = [folder for folder in (output, *reversed(checkpoints)) if (folder / ADAPTER).is_file()]
    return there[0] if there else None


class _Trial:
    """One trial while its program runs: what its logs said, its rungs, and how it ended."""

    def __init__(self, request: Request, output: Path, program: Program, decisions: Decisions):
        self._request, self._program, self._decisions = request, program, decisions
        self.log, self._reader = Log(), Reader(output, program.out, program.err)
        self.rungs: list[tuple[int, float]] = []
        self.ending: str | None = None  # as the program's guard says it, or `stopped`
        self._behind = False  # whether more is printed than was read

    def run(self, suspended: Any) -> Iterator[Progress | Rung]:
        """Follow the program until it has ended, is to end, or is suspended."""
        while self.ending is None and not suspended():
            self.ending = self._program.wait(0.0 if self._behind else POLL_SECONDS)
            yield from self._look()
            while self.ending is not None and self._behind:
                yield from self._look()
            by_hand = self._decisions.of(self._request.trial, AT_ONCE) is Verdict.STOPS
            if self.ending is None and (by_hand or self._stops()):
                self.ending = "stopped"
            if self.ending is None and self.log.diverged:
                self.ending = "diverged"
        asked = [(self._request.trial, rung) for rung, _ in self.rungs]
        if self.ending == "exit 0" and self._request.asks and not self._decisions.wait(asked, suspended):
            self.ending = None if suspended() else self.ending
        if self._stops():
            self.ending = "stopped" if self.ending == "exit 0" else self.ending
        if self.ending in ("stopped", "diverged"):
            self._end()

    def _look(self) -> Iterator[Progress | Rung]:
        """Read the logs on."""
        request, before = self._request, len(self.log.evaluations)
        self._behind, self.log = self._reader.read(), self._reader.log
        new = [one for one in self.log.evaluations[before:] if math.isfinite(one.loss)]
        loss = new[-1].loss if new else None
        yield Progress(request.trial, request.attempt, 0, 0, self.log.epoch, self.log.training_loss, loss)
        reached, known = [], {rung for rung, _ in self.rungs}
        for one in new:
            due = [rung for rung, _ in request.thresholds if rung <= one.epoch * PER_EPOCH and rung not in known]
            known |= set(due)
            # Four digits, as it may be printed alone: when it was looked at is to change nothing.
            reached += [(rung, float(f"{one.loss:.4g}")) for rung in due]
        self.rungs += reached
        asked = [(request.trial, *rung) for rung in reached if self._decisions.of(request.trial, rung[0]) is None]
        if asked and request.asks:
            yield Rung(request.trial, request.attempt, tuple(asked))

    def _stops(self) -> bool:
        """Whether it was decided that it ends at a rung that it has reached."""
        if self._request.promote:
            return False
        limits = {rung: limit for rung, limit in self._request.thresholds if limit is not None}
        if any(loss > limits.get(rung, math.inf) for rung, loss in self.rungs):
            return True
        return any(self._decisions.of(self._request.trial, rung) is Verdict.STOPS for rung, _ in self.rungs)

    def _end(self) -> None:
        """Have the program end by itself, for a while; what is left is killed."""
        self._program.end()
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until and self._program.wait(1.0) is None:
            continue

    def outcome(self, at: str, also: Sequence[str]) -> Outcome:
        """How it ended, by its program and its log."""
        evaluations = [one for one in self.log.evaluations if math.isfinite(one.loss)]
        losses = tuple(one.loss for one in evaluations)
        tokens = max((one.tokens for one in evaluations), default=0)

        def ended(how: Ending, message: str = "", **fields: Any) -> Outcome:
            common = {"losses": losses, "tokens": tokens, "seconds": self._program.seconds, "rungs": tuple(self.rungs)}
            return Outcome(self._request.trial, self._request.attempt, how, message=message, **{**common, **fields})

        out, err = self._program.out, self._program.err
        word, _, rest = (self.ending or "").partition(" ")
        if word == "timeout":
            return ended(Ending.TIMED_OUT, f"not finished after {self._request.timeout:g} s")
        if word == "stopped":
            return ended(Ending.STOPPED_EARLY, loss=self.rungs[-1][1] if self.rungs else next(reversed(losses), None))
        if self.log.diverged or any(abs(loss) > LARGEST for loss in losses):
            return ended(Ending.DIVERGED, self.log.diverged or f"a loss was above {LARGEST:g}")
        if word != "exit":
            return ended(Ending.CRASHED, f"the program cannot be started: {rest}" if rest else "it was killed")
        if rest != "0":
            if line := trainer_log.out_of_memory(out, err):
                return ended(Ending.OUT_OF_MEMORY, line)
            killed = " (killed, perhaps by the system for want of memory)" if rest in ("-9", "137") else ""
            return ended(Ending.CRASHED, f"exit code {rest}{killed}: {last_words(out, err)}")
        if not evaluations:
            what = "neither its output folder nor what it printed has an `eval_loss`: is it evaluated?"
            return ended(Ending.CRASHED, f"{what} (see {out})", retry=False)
        chosen = evaluations[-1] if at == "last" else min(evaluations, key=lambda one: one.loss)
        if missing := [name for name in also if name not in chosen.extra]:
            there = ", ".join(chosen.extra) or "none"
            what = f"its evaluations have no `{missing[0]}`, which guides the search; further numbers there: {there}"
            return ended(Ending.CRASHED, what, retry=False)
        return ended(Ending.COMPLETE, loss=chosen.loss, extra=chosen.extra)
