"""One trial as the record holds it, and how it is written and read there: values only, no storage."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshtune import trial as plain
from meshtune.config.budget import FEWEST_FINISHED
from meshtune.errors import StudyMismatch
from meshtune.space.goals import LOSS, violation
from meshtune.trial import Ending, Outcome, Request, Thresholds

LEARNT = "learnt"  # in the note of a promotion: see `RecordedTrial`
STARTUP = "early_stopping.startup"


@dataclass(frozen=True)
class RecordedTrial:
    """One trial of the log.

    Attributes:
        params: what the optimizer moves. hyperparameters: the decoded values.
        origin: baseline, search or enqueued. block: trials proposed from the same `seen` are one block.
        seed: of its training. seen: how many trials had ended when it was proposed. thresholds: as in `Request`.
        pack: the first trial of those that it is trained with; its own number where it is trained alone.
        joins: as in `Request`; None: it began with its pack.
        outcome: how it ended, or None while it is pending.
        promoted: how it ended once it was trained to the end after it had been stopped early, thawed or promoted.
        frozen: how it stood when it was stopped again after it had thawed; None: it never was.
        learnt: how many trials had ended when its promotion was recorded, where that was while it searched; else None.
        order: its place among the trials that have ended.
        value: what samplers get; of several objectives the first one's, the others' are `other_values`.
        elapsed: search seconds of the study when it ended.
        violations: of a complete trial, by the text of each measured constraint how far it is violated.
        enqueued_as: the number of the request that a person enqueued it by; None: nobody did.
    """

    number: int
    params: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    origin: str
    block: int
    seed: int
    seen: int
    pack: int = -1
    thresholds: Thresholds = ()
    outcome: Outcome | None = None
    order: int | None = None
    value: float | None = None
    elapsed: float = 0.0
    promoted: Outcome | None = None
    frozen: Outcome | None = None
    learnt: int | None = None
    other_values: tuple[float, ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)
    joins: tuple[int, int] | None = None
    enqueued_as: str | None = None

    def request(self, threads: int | None, timeout: float | None) -> Request:
        """What is submitted for this trial."""
        return Request(
            trial=self.number,
            hyperparameters=self.hyperparameters,
            seed=self.seed,
            block=self.block,
            pack=self.pack,
            threads=threads,
            timeout=timeout,
            thresholds=self.thresholds,
        )

    @property
    def final(self) -> Outcome | None:
        """How it ended in the end, so far; None while it is pending."""
        return self.promoted or self.frozen or self.outcome

    @property
    def loss(self) -> float:
        """The objective; infinite where the trial has none, and where it was stopped on the way."""
        return _loss_of(self.final)

    @property
    def violation(self) -> float:
        """All violations of measured constraints together; 0 where it keeps them."""
        return violation(self.violations.values())

    @property
    def quantities(self) -> dict[str, float]:
        """What is known of it by name, the validation loss among it; empty while it has none."""
        return quantities_of(self.final)

    @cached_property
    def loss_in_search(self) -> float:
        """The objective at the end of its search, before any promotion; infinite where there was none, or a constraint
        is not kept.
        """
        return math.inf if self.violation > 0 else _loss_of(self.outcome)


def _loss_of(outcome: Outcome | None) -> float:
    if outcome is None or outcome.ending is not Ending.COMPLETE or outcome.loss is None:
        return math.inf
    return outcome.loss


def quantities_of(outcome: Outcome | None) -> dict[str, float]:
    """The quantities of a complete outcome by name, the validation loss among them."""
    if outcome is None or outcome.ending is not Ending.COMPLETE or outcome.loss is None:
        return {}
    return {**outcome.extra, LOSS: outcome.loss}


def written_tell(trial: RecordedTrial) -> dict[str, Any]:
    """How a trial ended as plain values, under the keys that records have always had."""
    assert trial.outcome is not None
    tell = {**dataclasses.asdict(trial.outcome), "order": trial.order, "told": trial.value, "elapsed": trial.elapsed}
    for name, usual in (("pass_tokens", None), ("lost", False), ("no_room", False)):
        if tell[name] == usual:
            del tell[name]
    tell |= {"told_also": list(trial.other_values)} if trial.other_values else {}
    return tell | ({"violations": dict(trial.violations)} if trial.violations else {})


def read_trial(
    number: int, params: Mapping[str, Any], attrs: Mapping[str, Any], promoted: Mapping[str, Any] | None
) -> RecordedTrial:
    """A trial out of its attributes in the storage and the note of its promotion.

    Raises StudyMismatch where meshtune did not propose it.
    """
    if "proposal" not in attrs:
        raise StudyMismatch(f"trial {number} of the storage was not proposed by meshtune: use another study")
    proposal = dict(attrs["proposal"])
    if proposal["pack"] is None:  # recorded before there were packs
        proposal["pack"] = number
    proposal["thresholds"] = plain.thresholds(proposal["thresholds"])
    trial = RecordedTrial(number, params, attrs["hyperparameters"], **proposal)
    if "outcome" not in attrs:
        return trial
    written = dict(attrs["outcome"])
    fields = {"order": written.pop("order"), "value": written.pop("told"), "elapsed": written.pop("elapsed")}
    fields["other_values"] = tuple(written.pop("told_also", ()))
    fields["violations"] = written.pop("violations", {})
    if promoted is not None:
        fields["learnt"], rest = promoted.get(LEARNT), {key: promoted[key] for key in promoted if key != LEARNT}
        fields["promoted"] = read_outcome(rest)
    return dataclasses.replace(trial, outcome=read_outcome(written), **fields)


def refuse_changed(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise StudyMismatch with all fixed keys that differ."""
    had, now = flatten(recorded), flatten(given)
    for keys in (had, now):
        if STARTUP in keys:  # earlier versions recorded fewer than are needed now
            keys[STARTUP] = max(keys[STARTUP], FEWEST_FINISHED)
    changed = [key for key in {**had, **now} if had.get(key) != now.get(key)]
    if changed:
        lines = [f"  {key}: the study has {had.get(key)!r}, now given {now.get(key)!r}" for key in changed]
        raise StudyMismatch(
            "the study was made with other fixed keys:\n"
            + "\n".join(lines)
            + "\nGive the old values back, or start another study with `--folder`."
        )


def read_outcome(fields: Mapping[str, Any]) -> Outcome:
    """The outcome that `dataclasses.asdict` made into plain values; losses by row are in files of their own."""
    return plain.outcome({**fields, "row_losses": ()})


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted keys."""
    items = dict(enumerate(tree)) if isinstance(tree, list) else tree
    if not isinstance(items, Mapping) or not items:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in items.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
