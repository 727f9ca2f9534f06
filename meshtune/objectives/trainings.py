"""Trials trained over one base: together in a pack where the trainer is `packed`, else one after the other.

A pack's members end each by itself. Where memory runs out with several, those that have not ended start over in two
halves, and each half so again. A training saves itself in `<folder>/checkpoints/`, a pack as a whole, and the same
requests go on from there; what ends takes its checkpoint away, but for a crash, after which the next attempt goes on.
A trial that is stopped early leaves its state in `<folder>/stopped/<trial>`; promoted, it goes on from there, alone.
Where quantities guide the search, they are measured of what is complete once the base is free of the pack.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from meshtune.config.sections import TrainingConfig
from meshtune.data.store import Rows
from meshtune.objectives import checkpoints
from meshtune.objectives.after_training import Afterwards
from meshtune.objectives.measuring import Guiding
from meshtune.objectives.run import Failure, Run, failure_of
from meshtune.training import machine, saved_state
from meshtune.training.checkpoints import save_adapter
from meshtune.training.chosen_trainer import stepwise, takes, trainer_of
from meshtune.training.loss import Selected
from meshtune.training.packed.run import Changes, Kept
from meshtune.training.packed.trainer import train_pack
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.saved_state import say
from meshtune.training.steps import Checkpoint, Diverged, Rungs, Step, Suspended, Trained
from meshtune.training.trainer import lora_config
from meshtune.training.validation import rung_rows
from meshtune.trial import DataRef, Ending, Outcome, Progress, Request

Events = Iterator[Progress | Outcome]
Members = Sequence[tuple[Run, Recipe]]
_LEFT = Failure(Ending.TIMED_OUT, "it had left its pack before the interruption")


class Trainings:
    """Trains over a base that is loaded.

    Args:
        training: with a resolved precision, and the trainer that is used. data: the rows. at: the epoch that counts.
        rung_rows: validation rows that are measured at rungs. folder: the study's. device: of the base.
        asked: whether to save and stop. guiding: measures what guides the search, but of replicates.
    """

    def __init__(
        self,
        base: Any,
        training: TrainingConfig,
        data: DataRef,
        *,
        at: Literal["best", "last"],
        rung_rows: int,
        folder: Path,
        device: str,
        asked: Callable[[], bool],
        guiding: Guiding | None = None,
    ):
        self.base, self.training, self.data, self.at, self.rung_rows = base, training, data, at, rung_rows
        self.folder, self.device, self.asked = folder, device, asked
        self.after = Afterwards(guiding, folder, device, asked)

    def events(self, requests: Sequence[Request]) -> Events:
        """As the objective seam says."""
        runs = [Run(request) for request in requests]
        alone = runs
        if self.training.trainer.name == "packed":
            alone = []
            promoted = [[run] for run in runs if run.request.promote]
            for pack in ([run for run in runs if not run.request.promote], *promoted):
                if not self.asked():
                    yield from self._together(pack)
        for run in alone:
            if not self.asked():
                yield from self._alone(run)

    # -- in a pack

    def _together(self, runs: Sequence[Run]) -> Events:
        machine.reset_peak(self.device)
        members = []
        for run in runs:
            run.begin()
            yield Progress(run.request.trial, run.request.attempt)  # the worker's clock starts with the first word
            try:
                made = self._recipe(run.request)
                lora_config(self.base, made)  # finds what is wrong with this one alone
            except Exception as error:
                yield run.failed(failure_of(error))
            else:
                members.append((run, made))
        if members:
            yield from self._pack(members, members[0][0].request.width)

    def _pack(self, members: Members, width: int | None) -> Events:
        requests = [run.request for run, _ in members]
        checkpoint = self._checkpoint(requests)
        waiting = dict(enumerate(members))
        failure = None
        ended = self.after.trained_before([run for run, _ in members], checkpoint)
        if ended:
            waiting.clear()
        try:
            if waiting:
                yield from self._trained(members, waiting, ended, checkpoint, width)
        except Suspended:
            return
        except Exception as error:
            failure = failure_of(error)
        machine.free(self.device)
        try:
            crashed = yield from self.after.tell(ended, checkpoint if failure is None else None)
        except Suspended:
            return
        if failure is not None and failure.ending is Ending.OUT_OF_MEMORY and len(waiting) > 1:
            checkpoints.forget(checkpoint.folder)
            yield from self._halves(list(waiting.values()), None if width is None else (width + 1) // 2)
            return
        for run, _ in waiting.values():
            yield run.failed(failure or _LEFT)
        if not crashed and (failure is None or failure.ending is not Ending.CRASHED):
            checkpoints.forget(checkpoint.folder)

    def _halves(self, members: Members, width: int | None) -> Events:
        middle = (len(members) + 1) // 2
        say(f"memory ran out with {len(members)} trials in a pack: training them in two halves, from the beginning")
        for half in (members[:middle], members[middle:]):
            for run, _ in half:
                run.start_over()
            if not self.asked():
                yield from self._pack(half, width)

    def _trained(
        self,
        members: Members,
        waiting: dict[int, tuple[Run, Recipe]],
        ended: list[tuple[Run, Outcome]],
        checkpoint: Checkpoint,
        width: int | None,
    ) -> Events:
        """Train a pack; takes out of `waiting` what has ended, and tells it, or puts it to `ended` to be measured."""
        changes = Changes()
        rungs = self._rungs([run.request for run, _ in members])
        given: dict[str, Any] = {"checkpoint": checkpoint, "rungs": rungs, "changes": changes, "width": width}
        events = train_pack(self.base, *self._rows(), [made for _, made in members], at=self.at, **given)
        with contextlib.closing(events):
            for number, event in events:
                if number not in waiting:  # it has timed out, and leaves after this pass
                    continue
                run, _ = waiting[number]
                try:
                    match event:
                        case Step():
                            yield from run.told(event)
                            if run.stopped:
                                changes.keeping.add(number)
                            continue
                        case Trained():
                            outcome = self._complete(run, event)
                        case Kept():
                            if event.state is not None:  # else it was written before an interruption
                                saved_state.write(self._kept(run.request), event.made_by, event.state)
                            outcome = self._stopped(run)
                        case Diverged():
                            raise event
                except Exception as error:  # this one's alone
                    outcome = run.failed(failure_of(error))
                    changes.leaving.add(number)
                del waiting[number]
                if not self.after.measures:
                    yield outcome
                else:
                    ended.append((run, outcome))

    # -- alone

    def _alone(self, run: Run) -> Events:
        request = run.request
        machine.reset_peak(self.device)
        run.begin()
        yield Progress(request.trial, request.attempt)
        checkpoint = self._checkpoint([request])
        ended = self.after.trained_before([run], checkpoint)
        try:
            if not ended:
                ended = [(run, (yield from self._steps(run, checkpoint)))]
        except Suspended:
            return
        except Exception as error:
            ended = [(run, run.failed(failure_of(error)))]
        machine.free(self.device)
        told: Progress | Outcome | None = None
        try:
            with contextlib.closing(self.after.tell(ended, checkpoint)) as events:
                for told in events:
                    yield told
        except Suspended:
            return
        finally:  # once it was handed over
            if isinstance(told, Outcome) and told.ending is not Ending.CRASHED:
                checkpoints.forget(checkpoint.folder)

    def _steps(self, run: Run, checkpoint: Checkpoint) -> Generator[Progress, None, Outcome]:
        train_with = trainer_of(self.training)
        resumes = takes(train_with, "checkpoint")
        given: dict[str, Any] = {}
        if resumes:
            given["checkpoint"] = replace(checkpoint, asked=lambda: self.asked() or run.stopped)
        if takes(train_with, "rungs"):
            given["rungs"] = self._rungs([run.request])
        steps = train_with(self.base, *self._rows(), self._recipe(run.request), at=self.at, **given)
        try:
            with contextlib.closing(stepwise(steps)) as items:
                for step in items:
                    if isinstance(step, Trained):
                        return self._stopped(run) if run.stopped else self._complete(run, step)
                    if not resumes and self.asked():
                        raise Suspended
                    yield from run.told(step)
                    if run.stopped and not resumes:
                        return self._stopped(run)
        except Suspended:
            if not run.stopped:
                raise
            if checkpoint.folder.is_dir():
                checkpoints.keep(checkpoint.folder, self._kept(run.request))
            return self._stopped(run)
        raise RuntimeError("the trainer ended without a result")

    # -- of both

    def _complete(self, run: Run, trained: Trained) -> Outcome:
        if not math.isfinite(trained.loss):
            raise Diverged(f"the loss was {trained.loss}")
        trial = run.request.trial
        adapter = self.folder / "adapters" / (str(trial) if trial >= 0 else checkpoints.beside(trial))
        save_adapter(adapter, trained.weights, trained.config, self.base.name_or_path)
        place = adapter.relative_to(self.folder).as_posix()
        return run.ended(Ending.COMPLETE, loss=trained.loss, adapter=place, peak_memory=machine.peak(self.device))

    def _stopped(self, run: Run) -> Outcome:
        return run.ended(Ending.STOPPED_EARLY, loss=run.rungs[-1][1], peak_memory=machine.peak(self.device))

    def _recipe(self, request: Request) -> Recipe:
        return recipe(self.training, request.hyperparameters, request.seed)

    def _rows(self) -> tuple[Rows, Rows]:
        return Rows.open(self.data, "train"), Rows.open(self.data, "validation")

    def _rungs(self, requests: Sequence[Request]) -> Rungs | None:
        tokens = sorted({tokens for request in requests for tokens, _ in request.thresholds})
        if not tokens:
            return None
        rows = Rows.open(self.data, "validation")
        return Rungs(tuple(tokens), Selected(rows, rung_rows(len(rows), self.rung_rows, 0)))

    def _kept(self, request: Request) -> Path:
        return self.folder / checkpoints.STOPPED / checkpoints.name_of([request.trial])

    def _checkpoint(self, requests: Sequence[Request]) -> Checkpoint:
        folder = self.folder / checkpoints.FOLDER / checkpoints.name_of([request.trial for request in requests])
        if requests[0].promote:
            kept = self._kept(requests[0])
            if kept.is_dir():
                folder = kept
            elif not folder.is_dir():
                say(f"there is no state of trial {requests[0].trial} in {kept}: it is trained from the beginning")
        checkpoints.before_attempt(folder, requests[0].attempt)
        minutes = self.training.checkpoint_minutes
        return Checkpoint(folder, None if minutes is None else minutes * 60, self.asked)
