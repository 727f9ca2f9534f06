"""What the coordinator does about the requests of people (`requests.py`): answers them, and ends trials for them.

An answer is in the record before anything is done about it, but for an enqueued trial, whose proposal names its
request. So a run that begins anew, after a kill at any moment, finds what is still to be done in the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshtune.errors import InputError
from meshtune.plan.budget import Limit
from meshtune.plan.locate import typed
from meshtune.record.decisions import Decided
from meshtune.record.log import Record
from meshtune.record.requests import Answer, ControlRequest
from meshtune.record.trials import RecordedTrial
from meshtune.study.packs import Packs
from meshtune.study.requests import refusal, waiting
from meshtune.system.text import counted
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Thresholds, Verdict
from meshtune.workers.interface import Worker

AGAIN_SECONDS = 5.0  # after which a running trial is told again that it stops: what loads its base hears nothing yet
STOPPED = "stopped on request"  # how the message of such a trial begins


@dataclass
class Control:
    """The requests of one study while its search runs.

    Attributes:
        folder: the study's. seed: of enqueued trials. allowed: whether a point keeps what is known before training.
        rungs: of an enqueued trial, at which it is measured; it is trained to its end.
    """

    folder: Path
    seed: int
    allowed: Callable[[Mapping[str, Any]], bool] = lambda _: True
    rungs: Callable[[Mapping[str, Any]], Thresholds] = lambda _: ()
    _told: dict[int, float] = field(default_factory=dict)

    def answers(
        self, record: Record, packs: Packs, limit: Callable[[], Limit | None], *, ending: bool
    ) -> Iterator[tuple[Answer, RecordedTrial | None]]:
        """Answer what lies there; with each answer the trial that was enqueued for it, if one was.

        `limit()` is that of the budget. `ending`: the run was asked to stop, so that what enqueues waits for the next.
        """
        for path, request in waiting(self.folder):
            if request is None or request.number in record.answers:
                path.unlink(missing_ok=True)
                continue
            trial = None
            if request.action == "enqueue":
                if ending or record.awaits_baseline:
                    continue
                answer, trial = self._enqueue(record, request, limit)
            else:
                answer = self._of_trial(record, packs, request)
            record.answer(answer)
            path.unlink(missing_ok=True)
            yield answer, trial

    def stopped(self, record: Record, packs: Packs, worker: Worker) -> Iterator[Outcome]:
        """The ends of trials that wait and shall be stopped; those that run are told, and end by themselves."""
        for number, action in record.wishes.items():
            if action != "stop" or not record.goes(number):
                continue
            pack = packs.running_with(number)
            if pack is None:
                if packs.waits(number):
                    yield _unfinished(record, number)
            elif time.monotonic() - self._told.get(number, -AGAIN_SECONDS) >= AGAIN_SECONDS:
                self._told[number] = time.monotonic()
                worker.decide(Decision(pack.trials[0], pack.attempt, ((number, AT_ONCE, Verdict.STOPS),)))

    # -- inside

    def _enqueue(
        self, record: Record, request: ControlRequest, limit: Callable[[], Limit | None]
    ) -> tuple[Answer, RecordedTrial | None]:
        before = next((trial for trial in record.trials if trial.enqueued_as == request.number), None)
        if before is not None:  # the run was killed before it had noted the answer
            return _enqueued(request, before), None
        why = refusal(record, request)
        if why is None and (reached := limit()) is not None:
            more = f"`meshtune tune {typed(self.folder)} --trials N`"
            spent = reached.reason if reached.hold else f"the budget of {counted(len(record.trials), 'trial')} is spent"
            why = f"there is no room for another trial ({spent}): raise the budget, such as by {more}"
        if why is None and not self.allowed(request.hyperparameters):
            why = "the point does not keep the constraints that are known before training"
        if why is not None:
            return Answer(request, False, why), None
        rungs = self.rungs(request.hyperparameters)
        given: dict[str, Any] = {"origin": "enqueued", "seed": self.seed, "enqueued_as": request.number}
        try:
            trial = record.enqueue(request.hyperparameters, thresholds=rungs, **given)
        except InputError as error:
            return Answer(request, False, str(error)), None
        return _enqueued(request, trial), trial

    def _of_trial(self, record: Record, packs: Packs, request: ControlRequest) -> Answer:
        number = request.trial
        if why := refusal(record, request, typed(self.folder)):
            return Answer(request, False, why, number)
        assert number is not None
        runs, pending = packs.running_with(number) is not None, record.goes(number)
        match request.action:
            case "stop" if runs:
                words = "stops at its next step, unless it ends before"
            case "stop":
                words = "is stopped: it was waiting"
            case "finish" if pending:
                words = "is trained to its end, whatever the others do"
            case "finish":
                words = "is trained to its end once the search has ended; samplers are told nothing of it"
            case _:
                if not packs.retry(number):
                    words = "has not crashed" if runs else "waits, and is evaluated as soon as a process is free"
                    return Answer(request, False, f"trial {number} {words}: only what crashed is tried again", number)
                words = "crashed and is tried again: its attempts are counted from the beginning"
        return Answer(request, True, f"trial {number} {words}", number)


def refuse_left(folder: Path, record: Record, why: str) -> None:
    """Refuse what still lies in the folder of a study that no run will take up any more."""
    for path, request in waiting(folder):
        if request is not None and request.number not in record.answers:
            record.answer(Answer(request, False, why, request.trial))
        path.unlink(missing_ok=True)


def finishing(record: Record, decided: Decided) -> Decided:
    """What is decided of a trial at a rung: that it goes on, where a person asked that it be trained to its end."""
    if record.wishes.get(decided.trial) != "finish":
        return decided
    return replace(decided, verdict=Verdict.GOES_ON, value=None)


def worded(record: Record, outcome: Outcome) -> Outcome:
    """An outcome that says why it came early, where a person asked for that."""
    asked = record.wishes.get(outcome.trial) == "stop" and outcome.ending is Ending.STOPPED_EARLY
    return replace(outcome, message=STOPPED) if asked and not outcome.message else outcome


def _enqueued(request: ControlRequest, trial: RecordedTrial) -> Answer:
    return Answer(request, True, f"trial {trial.number} is enqueued, and starts once a process is free", trial.number)


def _unfinished(record: Record, number: int) -> Outcome:
    """The end of a trial that does not run, with what was measured of it at rungs in earlier runs; of one that had
    thawed, how it stood before.
    """
    message = f"{STOPPED} while it waited"
    if (stood := record.trials[number].final) is not None:
        return replace(stood, message=message)
    rungs = tuple(sorted((tokens, each.loss) for (trial, tokens), each in record.decided.items() if trial == number))
    tokens, loss = rungs[-1] if rungs else (0, None)
    return Outcome(number, 1, Ending.STOPPED_EARLY, loss=loss, rungs=rungs, tokens=tokens, message=message)
