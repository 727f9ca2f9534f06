"""What crosses the seams between the loop, the workers and the objectives.

Every value here is a frozen dataclass that goes to JSON and back unchanged (`to_json`, `from_json`): it crosses
processes and machines. Standard library only. Nothing here evaluates, stores or decides anything.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from meshtune.plain_text import clean

Thresholds = tuple[tuple[int, float | None], ...]
AT_ONCE = 0  # in place of a rung's tokens: a verdict that holds wherever the trial is, unasked


class Verdict(StrEnum):
    """What becomes of a trial at a rung."""

    GOES_ON = "goes_on"
    STOPS = "stops"  # with its state kept, from which it could go on


class Ending(StrEnum):
    """How a trial ended. The sentence of each member (`Ending.advice`) says what it means and what to change."""

    COMPLETE = "complete"
    STOPPED_EARLY = "stopped_early"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    INFEASIBLE = "infeasible"
    CRASHED = "crashed"

    @property
    def words(self) -> str:
        """As people read it."""
        return self.value.replace("_", " ")

    @property
    def advice(self) -> str:
        """One sentence for people: what happened, and what to change if it happens often."""
        return _ADVICE[self]

    @property
    def feasible(self) -> bool:
        """Whether the trial's value may be compared with others' (only `complete` ones can be the best)."""
        return self in (Ending.COMPLETE, Ending.STOPPED_EARLY)


_ADVICE = {
    Ending.COMPLETE: "Trained and validated to the end; its loss counts.",
    Ending.STOPPED_EARLY: "Others promised more at a rung. To stop fewer raise `keep` (rule model: `confidence`).",
    Ending.DIVERGED: "The loss was not finite; lower the upper bound of the rate or of the scale (alpha / rank).",
    Ending.OUT_OF_MEMORY: "The device's memory was too small; lower the largest rank, batch_size or max_length.",
    Ending.TIMED_OUT: "Not finished within the trial's timeout; raise `budget.trial_hours` or train on fewer rows.",
    Ending.INFEASIBLE: "A constraint does not hold at this point.",
    Ending.CRASHED: "The evaluation failed with an error, in every attempt; read the trial's log for its last words.",
}


@dataclass(frozen=True)
class DataRef:
    """Where prepared data lie: a folder that every worker can read, and the fingerprint that its content must have."""

    folder: str
    fingerprint: str


@dataclass(frozen=True)
class Request:
    """One evaluation to be done: train and validate a point or, where `measure` is given, only measure an adapter.

    `(trial, attempt)` identifies it; measurements have numbers below 0.

    Attributes:
        trial: number of the trial in the study, from 0.
        hyperparameters: decoded values by name, such as `rank`, `alpha`, `dropout`, `learning_rate`.
        seed: seed of everything random in the evaluation; the same for all trials of a study unless replicated.
        attempt: 1 for the first try; a retry after a crash is another attempt of the same trial.
        block: number of the block of trials that were proposed together.
        pack: number of the first trial of the pack that this one belongs to; None for what is no trial.
        threads: CPU threads to compute with, or None for the worker's own choice.
        timeout: seconds after which the evaluation ends as `timed_out`, or None; a pack has its members' together.
        thresholds: (tokens, loss) pairs, the rungs of early stopping: after so many tokens the loss of some validation
            rows is measured, and a higher one than this ends the trial; None: it goes on whatever it is.
        asks: whether it waits at each rung until it is decided what becomes of it; else its thresholds decide.
        decided: (tokens, verdict) pairs of what was decided before, which is not asked again; at `AT_ONCE` tokens: a
            person has had it stopped.
        joins: (trial, tokens) of the rung after which it joined a pack that ran; None: it began with its pack.
        promote: whether the trial was stopped early and shall go on from there to its end, past all thresholds.
        thaws: whether the trial was stopped early and goes on from there, as one of its pack: it asks at further rungs.
        width: trials of its pack that are trained at once, as one leaves the next joins; None: all.
        pass_tokens: of a pass of the packed trainer at most, since memory ran out with more; None: as suits the device.
        measure: instead of training, measure `adapter`: its loss on the `validation` or `test` rows, its `answers`, or
            in `float32` that on the validation rows with the base in float32;
            or ask whether the `trainer` can pack trials (the outcome's message says why not); else None.
        adapter: folder of the adapter to measure, relative to the study's folder; None for the untuned model.
    """

    trial: int
    hyperparameters: Mapping[str, Any]
    seed: int
    attempt: int = 1
    block: int = 0
    pack: int | None = None
    threads: int | None = None
    timeout: float | None = None
    thresholds: Thresholds = ()
    asks: bool = False
    decided: tuple[tuple[int, Verdict], ...] = ()
    joins: tuple[int, int] | None = None
    promote: bool = False
    thaws: bool = False
    width: int | None = None
    pass_tokens: int | None = None
    measure: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Progress:
    """Where a running evaluation stands. Sent now and then; losing one loses nothing.

    Attributes:
        step, steps: optimizer steps done and to be done.
        epoch: epochs done, a fraction.
        training_loss: mean loss of the last steps, or None.
        validation_loss: token-weighted validation loss where one was just measured, or None.
        rung_loss: the same of the rungs' rows where a rung was just measured, or None.
        place: the device it runs on, such as `cuda:1` or `node7 cuda:0`, as the worker says; else empty.
    """

    trial: int
    attempt: int
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    training_loss: float | None = None
    validation_loss: float | None = None
    rung_loss: float | None = None
    place: str = ""


@dataclass(frozen=True)
class Rung:
    """Members of a pack stand at a rung, and wait until it is decided what becomes of them, but not for ever.

    Attributes:
        pack, attempt: of the first request that was submitted with them; they are the pack's name until it has ended.
        losses: (trial, tokens, loss) of each rung of each that waits.
    """

    pack: int
    attempt: int
    losses: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Decision:
    """The answer to a `Rung`: the pack's name, and (trial, tokens, verdict) of each rung of each that waits.

    Unasked, with `AT_ONCE` tokens, it ends a trial that runs at its next step.
    """

    pack: int
    attempt: int
    verdicts: tuple[tuple[int, int, Verdict], ...]


@dataclass(frozen=True)
class Outcome:
    """How one evaluation ended: exactly one for every request.

    Attributes:
        loss: the objective (lower is better); of what was `stopped_early` the loss of its last rung, without rungs of
            its last epoch; else None.
        losses: validation loss after each epoch.
        rungs: (tokens, loss) of the rungs that it reached, with the tokens of its request's thresholds.
        training_losses: mean training loss at the start (first step) and over each epoch.
        seconds: wall time of the evaluation, in a pack that of the pack until this trial ended.
        tokens: trained on, padding left out.
        peak_memory: bytes, of the process on a CPU and of the allocator on a GPU, for the whole pack; None where it
            cannot be measured.
        adapter: folder of the saved adapter, relative to the study's folder, or None.
        row_losses: of a measurement: per row, the summed loss and the number of label tokens, in row order.
        message: last words for people, where something went wrong; without control characters and passwords.
        extra: further small numbers by name, as an objective reports them.
        retry: of a crash: whether another attempt may end otherwise; False where the input is at fault.
        pass_tokens: of a pass in the end, at most, where memory has run out with more; None: it never did.
        no_room: of a crash: whether a file could not be written, as on a full disk: nothing of it is the trial's fault.
        lost: of a crash: whether it was lost with its node, job or cluster, which says little about the trial itself.
    """

    trial: int
    attempt: int
    ending: Ending
    loss: float | None = None
    losses: tuple[float, ...] = ()
    training_losses: tuple[float, ...] = ()
    rungs: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    tokens: int = 0
    peak_memory: int | None = None
    adapter: str | None = None
    row_losses: tuple[tuple[float, int], ...] = ()
    message: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    retry: bool = True
    pass_tokens: int | None = None
    lost: bool = False
    no_room: bool = False

    def __post_init__(self) -> None:
        """Others' words are made safe here: they are stored, and shown on terminals."""
        object.__setattr__(self, "message", clean(self.message))


Event = Progress | Rung | Outcome


def to_json(value: Request | Decision | Event) -> str:
    """One line of JSON that says which kind of value it holds. Not-a-number is not allowed to cross."""
    return json.dumps({"kind": type(value).__name__, **dataclasses.asdict(value)}, allow_nan=False)


def from_json(line: str) -> Request | Decision | Event:
    """The value that `to_json` wrote. Raises ValueError on anything else."""
    fields = json.loads(line)
    match fields.pop("kind", None):
        case "Request":
            fields["thresholds"] = thresholds(fields["thresholds"])
            fields["decided"] = tuple((int(tokens), Verdict(verdict)) for tokens, verdict in fields["decided"])
            fields["joins"] = None if fields["joins"] is None else tuple(fields["joins"])
            return Request(**fields)
        case "Progress":
            return Progress(**fields)
        case "Rung":
            losses = tuple((int(trial), int(tokens), float(loss)) for trial, tokens, loss in fields.pop("losses"))
            return Rung(**fields, losses=losses)
        case "Decision":
            verdicts = tuple((int(trial), int(tokens), Verdict(which)) for trial, tokens, which in fields["verdicts"])
            return Decision(fields["pack"], fields["attempt"], verdicts)
        case "Outcome":
            return outcome(fields)
        case other:
            raise ValueError(f"not a value of meshtune.trial: {other!r}")


def outcome(fields: Mapping[str, Any]) -> Outcome:
    """The outcome that `dataclasses.asdict` made into plain values, out of JSON's lists."""
    own = {name: tuple(fields[name]) for name in ("losses", "training_losses")}
    own["rungs"] = tuple((int(tokens), float(loss)) for tokens, loss in fields.get("rungs", ()))
    own["row_losses"] = tuple((float(total), int(count)) for total, count in fields["row_losses"])
    return Outcome(**{**fields, **own, "ending": Ending(fields["ending"])})


def thresholds(pairs: Iterable[tuple[int, float | None]]) -> Thresholds:
    """Thresholds out of JSON's lists."""
    return tuple((int(tokens), None if loss is None else float(loss)) for tokens, loss in pairs)
