"""Early stopping in a study: which trials are compared, and what the rules of `meshtune.stopping.rules` say of them.

Only trials of one schedule are compared: those that train on the same tokens in the same way, whatever is adapted. A
decision is made from the record as it is when the trial is proposed, and written with the proposal: neither the pack
nor the order in which answers arrive inside a block changes it, and a replay is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshtune.config.budget import FEWEST_FINISHED, EarlyStoppingConfig
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.stopping.rules import Curve, Rule, Stopping
from meshtune.trial import Ending, Outcome, Thresholds

DEFAULT: Rule = "asha"  # docs/decisions/2026-11-26-early-stopping.md
SCHEDULE = ("epochs", "batch_size", "warmup_ratio", "lr_scheduler")  # hyperparameters that may make it another one


@dataclass(frozen=True)
class EarlyStopping:
    """The rules of one study.

    Attributes:
        config: the section `early_stopping`. epochs: of a trial whose hyperparameters name none.
        epoch_tokens: of the training rows, padding left out. validation_rows: that there are; None: not known.
    """

    config: EarlyStoppingConfig
    epochs: int
    epoch_tokens: int
    validation_rows: int | None = None

    def described(self) -> dict[str, Any]:
        """What must not change while a study goes on."""
        dumped = self.config.model_dump(mode="json", exclude={"promote"})
        return {**dumped, "rule": self._rule, "startup": self._startup}

    def __str__(self) -> str:
        config = self.config
        *shares, last = [f"{100 * share:g}" for share in config.rungs]
        at = f"{', '.join(shares)} and {last}" if shares else last
        there = self.validation_rows
        few = there is not None and there <= config.rows
        rows = f"the {there} validation rows" if few else f"{config.rows} validation rows"
        return f"by the rule {self._rule}, at {at} % of a trial's tokens on {rows}; at most {config.promote} promoted"

    def rungs(self, hyperparameters: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens after which a trial is measured."""
        whole, found = self.tokens(hyperparameters), list[int]()
        for fraction in self.config.rungs:
            found.append(max(math.ceil(fraction * whole), found[-1] + 1 if found else 1))
        return tuple(found)

    def tokens(self, hyperparameters: Mapping[str, Any]) -> int:
        """Of a whole trial."""
        return int(hyperparameters.get("epochs", self.epochs)) * self.epoch_tokens

    def measured(self, hyperparameters: Mapping[str, Any]) -> Thresholds:
        """Rungs at which nothing is decided."""
        return tuple((tokens, None) for tokens in self.rungs(hyperparameters))

    def thresholds(self, record: Record, hyperparameters: Mapping[str, Any]) -> Thresholds:
        """Of a trial that is proposed now."""
        losses = self._rules.thresholds(_curves(_alike(record.finished, hyperparameters)))
        return tuple(zip(self.rungs(hyperparameters), losses, strict=True))

    def value(self, record: Record, outcome: Outcome) -> float | None:
        """What samplers are told of a trial that was stopped; None: only that it was."""
        if outcome.ending is not Ending.STOPPED_EARLY or self.config.told == "failed":
            return None
        trial = record.trials[outcome.trial]
        known = record.finished[: trial.seen]  # as it was proposed: order of arrival in a block decides nothing
        return self._rules.predicted_value(_curves(_alike(known, trial.hyperparameters)), Curve(_losses(outcome)))

    def promising(self, record: Record, limit: int | None = None) -> list[int]:
        """Numbers of the stopped trials that may still be the best, the likeliest first, at most `promote` of them.

        Those that were promoted count among them, so that the answer is the same before and after. `limit`: instead of
        `promote`.
        """
        limit = self.config.promote if limit is None else limit
        found = []
        noise = float((record.notes.get("seed_noise") or {}).get("deviation") or 0.0)
        for group in _groups(record.finished).values():
            curves = _curves(group)
            for index in self._rules.promising(curves, limit, noise):
                prediction = self._rules.predicted(curves, curves[index])
                found.append((math.inf if prediction is None else prediction.mean, group[index].number))
        return [number for _, number in sorted(found)[:limit]]

    # -- inside

    @property
    def _rule(self) -> Rule:
        rule = self.config.rule
        assert rule != "none"
        return DEFAULT if rule == "default" else rule

    @property
    def _rules(self) -> Stopping:
        config = self.config
        return Stopping(self._rule, config.rungs, startup=self._startup, keep=config.keep, confidence=config.confidence)

    @property
    def _startup(self) -> int:
        """With fewer, samplers could be told nothing of what was stopped."""
        return max(self.config.startup, FEWEST_FINISHED)


def _groups(told: Sequence[RecordedTrial]) -> dict[tuple[Any, ...], list[RecordedTrial]]:
    """Trials that can be compared, by schedule, in the order of their tells.

    They have rungs, and ended by themselves or by a rule; one that diverged says nothing of the others.
    """
    groups: dict[tuple[Any, ...], list[RecordedTrial]] = {}
    for trial in told:
        if trial.outcome and trial.outcome.rungs and trial.outcome.ending.feasible:
            groups.setdefault(_schedule(trial.hyperparameters), []).append(trial)
    return groups


def _alike(told: Sequence[RecordedTrial], hyperparameters: Mapping[str, Any]) -> list[RecordedTrial]:
    """Of these trials those of the same schedule."""
    return _groups(told).get(_schedule(hyperparameters), [])


def _curves(trials: Sequence[RecordedTrial]) -> list[Curve]:
    """Their losses as they were told, whatever was promoted since."""
    return [
        Curve(_losses(trial.outcome), trial.outcome.loss if trial.outcome.ending is Ending.COMPLETE else None)
        for trial in trials
        if trial.outcome is not None
    ]


def _losses(outcome: Outcome) -> tuple[float, ...]:
    return tuple(loss for _, loss in outcome.rungs)


def _schedule(hyperparameters: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(hyperparameters.get(name) for name in SCHEDULE)
