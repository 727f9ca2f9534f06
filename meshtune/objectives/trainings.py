"""Trials trained over one base: together in a pack where the trainer is `packed`, else one after the other.

A pack's members end each by itself. Where memory runs out, a pack makes its passes smaller (`packed/trainer.py`); one
that has no room beside the others even so is trained alone after them. Where memory runs out outside of passes, those
that have not ended start over in two halves, and each half so again.

A training saves itself in `<folder>/checkpoints/`, a pack as a whole, and the same requests go on from there; what ends
takes its checkpoint away, but for a crash, after which the next attempt goes on. A trial that is stopped early leaves
its state in `<folder>/stopped/<trial>`; promoted, it goes on from there, alone.

Where requests ask, a pack waits at a rung, until all that stand there know what becomes of them. What joins a pack
begins before its next pass. Repeated from the beginning it begins where it had: after the rung that its request names.

Quantities beside the loss are measured of what is complete. The base is free of a pack only when all of it has ended,
so its outcomes wait for that. They are kept in the folder of its checkpoint meanwhile: an interruption goes on with
measuring, and trains nothing again.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from meshtune.config.sections import TrainingConfig
from meshtune.data.store import Rows
from meshtune.objectives import checkpoints
from meshtune.objectives.attempt import Attempt, Failure, failure_of
from meshtune.objectives.decisions import Decisions
from meshtune.objectives.measuring import Measurer
from meshtune.training import machine, saved_state
from meshtune.training.adapter_config import lora_config
from meshtune.training.checkpoints import is_whole, save_adapter
from meshtune.training.chosen_trainer import stepwise, takes, trainer_of
from meshtune.training.loss import Selected, rung_rows
from meshtune.training.packed.changes import Changes, Kept, Measured
from meshtune.training.packed.ranks import Ranks
from meshtune.training.packed.trainer import train_pack
from meshtune.training.packed.unpackable import check_packable
from meshtune.training.recipe import Recipe, recipe
from meshtune.training.saved_state import say
from meshtune.training.steps import Checkpoint, Diverged, NoRoom, Rungs, Step, Suspended, Trained
from meshtune.trial import AT_ONCE, DataRef, Ending, Event, Outcome, Progress, Request, Rung, Verdict

Events = Iterator[Event]
Members = list[tuple[Attempt, Recipe]]
_LEFT = Failure(Ending.TIMED_OUT, "it had left its pack before the interruption")


@dataclass(frozen=True)
class Trainings:
    """Trains over a base that is loaded.

    Attributes:
        training: with a resolved precision, and the trainer that is used. data: the rows. at: the epoch that counts.
        rung_rows: validation rows that are measured at rungs. folder: the study's. device: of the base.
        stopping: whether to save and stop. measurer: of quantities beside the loss, but not of replicates; None: none.
        ranks: the processes that share the rows, of packs and of the trainer `transformers`.
        decisions: what is said of the pack while it trains.
    """

    base: Any
    training: TrainingConfig
    data: DataRef
    at: Literal["best", "last"]
    rung_rows: int
    folder: Path
    device: str
    stopping: Callable[[], bool]
    measurer: Measurer | None = None
    ranks: Callable[[], Ranks | None] = lambda: None
    decisions: Decisions = field(default_factory=Decisions)

    def events(self, requests: Sequence[Request]) -> Events:
        """As the objective seam says."""
        self.decisions.begin(requests)
        while requests:
            yield from self._trained_as_they_are(requests)
            requests = self.decisions.end()  # what joined too late

    def _trained_as_they_are(self, requests: Sequence[Request]) -> Events:
        attempts = [Attempt(request) for request in requests]
        alone = attempts
        if self.training.trainer.name == "packed":
            alone = []
            going_on = [[attempt] for attempt in attempts if _alone_from_its_state(attempt.request)]
            for pack in ([attempt for attempt in attempts if [attempt] not in going_on], *going_on):
                if not self.stopping():
                    yield from self._together(pack)
        for attempt in alone:
            if not self.stopping():
                yield from self._alone(attempt)

    # -- in a pack

    def _together(self, attempts: Sequence[Attempt]) -> Events:
        machine.reset_peak(self.device)
        members = []
        for attempt in attempts:
            made = yield from self._begun(attempt)
            if made is not None:
                members.append((attempt, made))
        if members:
            yield from self._pack(members, members[0][0].request.width)

    def _begun(self, attempt: Attempt) -> Generator[Progress | Outcome, None, Recipe | None]:
        """How it is trained; None where that cannot be, which is told."""
        attempt.begin()
        yield attempt.progress()  # the worker's clock starts with the first word
        try:
            made = self._recipe(attempt.request)
            lora_config(self.base, made)  # finds what is wrong with this one alone
        except Exception as error:
            yield attempt.failed(failure_of(error))
            return None
        return made

    def _pack(self, members: Members, width: int | None) -> Events:
        requests = [attempt.request for attempt, _ in members]
        checkpoint = self._checkpoint(requests)
        waiting = dict(enumerate(members))
        failure = None
        tight: list[int] = []
        ended = self._trained_before([attempt for attempt, _ in members], checkpoint)
        if ended:
            waiting.clear()
        try:
            if waiting:
                yield from self._trained(members, waiting, tight, ended, checkpoint, width)
        except Suspended:
            return
        except Exception as error:
            failure = failure_of(error)
        machine.free(self.device)
        try:
            crashed = yield from self._outcomes(ended, checkpoint if failure is None else None)
        except Suspended:
            return
        if failure is not None and failure.ending is Ending.OUT_OF_MEMORY and len(waiting) > 1:
            checkpoints.forget(checkpoint.folder)
            yield from self._halves(list(waiting.values()), None if width is None else (width + 1) // 2)
            return
        if failure is None:
            yield from self._alone_after([waiting.pop(number) for number in tight])
            if tight and self.stopping():
                return
        for attempt, _ in waiting.values():
            yield attempt.failed(failure or _LEFT)
        if (
            not crashed
            and not self._kept_again(members[0][0], checkpoint)
            and (failure is None or failure.ending is not Ending.CRASHED)
        ):
            checkpoints.forget(checkpoint.folder)

    def _alone_after(self, members: Members) -> Events:
        for attempt, made in members:
            say(f"trial {attempt.request.trial} had no room beside the others of its pack: it is trained alone")
            attempt.start_over()
            if not self.stopping():
                yield from self._pack([(attempt, made)], None)

    def _halves(self, members: Members, width: int | None) -> Events:
        middle = (len(members) + 1) // 2
        say(f"memory ran out with {len(members)} trials in a pack: training them in two halves, from the beginning")
        for half in (members[:middle], members[middle:]):
            for attempt, _ in half:
                attempt.start_over()
            if not self.stopping():
                yield from self._pack(half, width)

    def _trained(
        self,
        members: Members,
        waiting: dict[int, tuple[Attempt, Recipe]],
        tight: list[int],
        ended: list[tuple[Attempt, Outcome]],
        checkpoint: Checkpoint,
        width: int | None,
    ) -> Events:
        """Train a pack; takes out of `waiting` what has ended, and tells it, or puts it to `ended` to be measured.

        What had no room beside the others goes on waiting, and its number is put to `tight`. What joins is put to
        `members` and to `waiting`.
        """
        changes = Changes(held={number for number, (attempt, _) in waiting.items() if attempt.request.joins})
        joined = {number: attempt.request for number, (attempt, _) in waiting.items() if attempt.request.joins}
        changes.frozen = {number: self._kept(request) for number, request in joined.items() if request.thaws}
        rungs, limit = self._rungs([attempt.request for attempt, _ in members]), members[0][0].limit
        given: dict[str, Any] = {"checkpoint": checkpoint, "rungs": rungs, "changes": changes, "width": width}
        given |= {"limit": limit, "ranks": self.ranks()}
        events = train_pack(self.base, *self._rows(), [made for _, made in members], at=self.at, **given)
        with contextlib.closing(events):
            for number, event in events:
                if isinstance(event, Measured):
                    yield from self._decided([attempt for attempt, _ in waiting.values()])
                self._heed([attempt for attempt, _ in waiting.values()])
                yield from self._joined(members, waiting, changes)
                changes.keeping |= {number for number, (attempt, _) in waiting.items() if attempt.stopped}
                if number not in waiting:  # it has timed out, and leaves after this pass; or this is about all
                    continue
                attempt, _ = waiting[number]
                attempt.limit = limit
                if isinstance(event, NoRoom) and len(members) > 1:
                    tight.append(number)
                    continue
                try:
                    if isinstance(event, Step):
                        yield from attempt.note(event)
                        if attempt.late and not attempt.asking:
                            attempt.follow(self.decisions.of)
                        if attempt.stopped:
                            changes.keeping.add(number)
                        continue
                    outcome = self._ended(attempt, event)
                except Exception as error:  # this one's alone
                    outcome = attempt.failed(failure_of(error))
                    changes.leaving.add(number)
                del waiting[number]
                if self.measurer is None:
                    yield outcome
                else:
                    ended.append((attempt, outcome))

    def _ended(self, attempt: Attempt, event: Trained | Kept | Diverged | NoRoom | Measured) -> Outcome:
        """The outcome of a member that has ended; raises what it ended with."""
        match event:
            case Trained():
                return self._complete(attempt, event)
            case Kept():
                if event.state is not None:  # else it was written before an interruption
                    saved_state.write(self._kept(attempt.request), event.made_by, event.state)
                return self._stopped(attempt)
            case Diverged() | NoRoom():
                raise event
        raise TypeError(f"not an end: {event!r}")

    def _joined(self, members: Members, waiting: dict[int, tuple[Attempt, Recipe]], changes: Changes) -> Events:
        """Take in what has joined, and let begin what had joined before, once its pack is as far as it was then."""
        for request in self.decisions.joined():
            attempt = Attempt(request)
            made = yield from self._begun(attempt)
            if made is None:
                continue
            try:
                check_packable(self.base, [members[0][1], made])
            except Exception as error:
                yield attempt.failed(failure_of(error))
                continue
            waiting[len(members)] = (attempt, made)
            members.append((attempt, made))
            if request.thaws:
                changes.frozen[len(members) - 1] = self._kept(request)
            changes.joining.append((made, tuple(tokens for tokens, _ in request.thresholds)))
        if changes.held:
            reached = {(attempt.request.trial, tokens) for attempt, _ in members for tokens, _ in attempt.rungs}
            changes.held -= {n for n in changes.held if members[n][0].request.joins in reached}

    def _decided(self, attempts: Sequence[Attempt]) -> Generator[Rung, None, None]:
        """Have it decided what becomes of those that have just reached a rung, while nothing is computed."""
        losses = [
            (attempt.request.trial, tokens, loss)
            for attempt in attempts
            for tokens, loss in attempt.rungs
            if tokens in attempt.asking and self.decisions.of(attempt.request.trial, tokens) is None
        ]
        if losses:
            begun = time.monotonic()
            yield Rung(*self.decisions.pack, tuple(losses))
            answered = self.decisions.wait([(trial, tokens) for trial, tokens, _ in losses], self.stopping)
            if not answered and not self.stopping():
                trials = ", ".join(str(trial) for trial in dict.fromkeys(trial for trial, *_ in losses))
                say(f"nothing was decided in time of what stands at a rung, so it goes on: {trials}")
            for attempt in attempts:
                attempt.waited += time.monotonic() - begun
        for attempt in attempts:
            attempt.follow(self.decisions.of)

    def _heed(self, attempts: Sequence[Attempt]) -> None:
        """End those that a person has had stopped, wherever they are."""
        for attempt in attempts:
            if self.decisions.of(attempt.request.trial, AT_ONCE) is Verdict.STOPS:
                attempt.stopped = True

    # -- alone

    def _alone(self, attempt: Attempt) -> Events:
        request = attempt.request
        machine.reset_peak(self.device)
        attempt.begin()
        yield attempt.progress()
        checkpoint = self._checkpoint([request])
        ended = self._trained_before([attempt], checkpoint)
        try:
            if not ended:
                ended = [(attempt, (yield from self._steps(attempt, checkpoint)))]
        except Suspended:
            return
        except Exception as error:
            ended = [(attempt, attempt.failed(failure_of(error)))]
        machine.free(self.device)
        last: Event | None = None
        try:
            with contextlib.closing(self._outcomes(ended, checkpoint)) as events:
                for last in events:
                    yield last
        except Suspended:
            return
        finally:  # once it was handed over
            over = isinstance(last, Outcome) and last.ending is not Ending.CRASHED
            if over and not self._kept_again(attempt, checkpoint):
                checkpoints.forget(checkpoint.folder)

    def _steps(self, attempt: Attempt, checkpoint: Checkpoint) -> Generator[Progress | Rung, None, Outcome]:
        train_with = trainer_of(self.training)
        resumes = takes(train_with, "checkpoint")
        given: dict[str, Any] = {}
        if resumes:
            given["checkpoint"] = replace(checkpoint, asked=lambda: self.stopping() or attempt.stopped)
        if takes(train_with, "rungs"):
            given["rungs"] = self._rungs([attempt.request])
        if self.training.trainer.name == "transformers":
            given["ranks"] = self.ranks()
        steps = train_with(self.base, *self._rows(), self._recipe(attempt.request), at=self.at, **given)
        try:
            with contextlib.closing(stepwise(steps)) as items:
                for step in items:
                    if isinstance(step, Trained):
                        return self._stopped(attempt) if attempt.stopped else self._complete(attempt, step)
                    if not resumes and self.stopping():
                        raise Suspended
                    yield from attempt.note(step)
                    yield from self._decided([attempt])
                    self._heed([attempt])
                    if attempt.stopped and not resumes:
                        return self._stopped(attempt)
        except Suspended:
            if not attempt.stopped:
                raise
            if checkpoint.folder.is_dir() and checkpoint.folder != self._kept(attempt.request):
                checkpoints.keep(checkpoint.folder, self._kept(attempt.request))
            return self._stopped(attempt)
        raise RuntimeError("the trainer ended without a result")

    # -- once the base is free

    def _trained_before(self, attempts: Sequence[Attempt], checkpoint: Checkpoint) -> list[tuple[Attempt, Outcome]]:
        """What was trained before an interruption and has only to be measured; nothing where not all of it was."""
        if self.measurer is None:
            return []
        known = checkpoints.trained(checkpoint.folder, [attempt.request for attempt in attempts])
        if any(outcome.adapter and not is_whole(self.folder / outcome.adapter) for outcome in known.values()):
            return []
        return [(attempt, known[attempt.request.trial]) for attempt in attempts if known]

    def _outcomes(
        self, ended: Sequence[tuple[Attempt, Outcome]], checkpoint: Checkpoint | None
    ) -> Generator[Progress | Outcome, None, bool]:
        """The outcomes of what has ended, those that are complete with their quantities; whether measuring one crashed.

        `checkpoint`: where they are kept until they are handed over; None: nowhere. Raises Suspended.
        """
        outcomes = [outcome for _, outcome in ended]
        again = any(outcome.ending is Ending.CRASHED and outcome.retry for outcome in outcomes)
        if checkpoint is not None and not again and any(map(self._wants, outcomes)):
            checkpoints.keep_trained(checkpoint.folder, outcomes)
        crashed = False
        for attempt, outcome in ended:
            if self._wants(outcome):
                outcome = yield from self._measured(attempt, outcome)
                crashed |= outcome.ending is Ending.CRASHED
            yield outcome
        return crashed

    def _wants(self, outcome: Outcome) -> bool:
        """Whether something is to be measured."""
        complete = outcome.ending is Ending.COMPLETE
        return self.measurer is not None and complete and not checkpoints.is_replicate(outcome.trial)

    def _measured(self, attempt: Attempt, outcome: Outcome) -> Generator[Progress, None, Outcome]:
        """The outcome with its quantities, or with how measuring it failed."""
        measurer, begun, name = self.measurer, time.monotonic(), checkpoints.name_of([outcome.trial])
        if measurer is None:
            return outcome
        try:
            extra = yield from attempt.watch(lambda tick: measurer.measure(name, outcome.adapter, tick), self.stopping)
        except Suspended:
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure.ending is not Ending.CRASHED and outcome.adapter is not None:
                shutil.rmtree(self.folder / outcome.adapter, ignore_errors=True)  # nobody will ask for it
            failed = replace(outcome, ending=failure.ending, message=failure.message, retry=failure.retry)
            return replace(failed, loss=None, adapter=None)
        finally:
            machine.free(self.device)
        peak, seconds = machine.peak(self.device), outcome.seconds + time.monotonic() - begun
        return replace(outcome, extra=extra, seconds=seconds, peak_memory=peak)

    # -- of both

    def _complete(self, attempt: Attempt, trained: Trained) -> Outcome:
        if not math.isfinite(trained.loss):
            raise Diverged(f"the loss was {trained.loss}")
        trial = attempt.request.trial
        adapter = self.folder / "adapters" / (str(trial) if trial >= 0 else checkpoints.beside(trial))
        save_adapter(adapter, trained.weights, trained.config, self.base.name_or_path)
        place = adapter.relative_to(self.folder).as_posix()
        return attempt.ended(Ending.COMPLETE, loss=trained.loss, adapter=place, peak_memory=machine.peak(self.device))

    def _stopped(self, attempt: Attempt) -> Outcome:
        loss = attempt.rungs[-1][1] if attempt.rungs else next(reversed(attempt.losses), None)
        return attempt.ended(Ending.STOPPED_EARLY, loss=loss, peak_memory=machine.peak(self.device))

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

    def _kept_again(self, attempt: Attempt, checkpoint: Checkpoint) -> bool:
        """Whether a trial that went on from where it was stopped was stopped once more: its state stays there."""
        return attempt.stopped and checkpoint.folder == self._kept(attempt.request)

    def _checkpoint(self, requests: Sequence[Request]) -> Checkpoint:
        folder = self.folder / checkpoints.FOLDER / checkpoints.of_pack(requests)
        if _alone_from_its_state(requests[0]):
            kept = self._kept(requests[0])
            if kept.is_dir():
                folder = kept
            elif not folder.is_dir():
                say(f"there is no state of trial {requests[0].trial} in {kept}: it is trained from the beginning")
        checkpoints.before_attempt(folder, requests[0].attempt)
        minutes = self.training.checkpoint_minutes
        return Checkpoint(folder, None if minutes is None else minutes * 60, self.stopping)


def _alone_from_its_state(request: Request) -> bool:
    """Whether it goes on from where it was stopped, in no other's pack."""
    return request.promote or (request.thaws and request.joins is None)
