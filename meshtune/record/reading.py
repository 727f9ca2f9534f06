"""What is read of a record: its trials as they stand, and what follows from them alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshtune.record import decisions, requests
from meshtune.record.decisions import Decided, Dropped, Joined, Thawed
from meshtune.record.scoring import awaits, ranked, references
from meshtune.record.trials import RecordedTrial
from meshtune.space.goals import Goals, Quantities
from meshtune.space.pareto import pareto
from meshtune.trial import Ending, Verdict


class Trials:
    """The trials of a study, with what its record says beside them.

    Attributes:
        trials: by number. notes: small facts about the study. guidance: what the search goes by. answers: to what
            people asked, by the request's number. thaws: of trials that had been stopped, in their order. drops: of
            their states. joined: trials that joined packs which ran, in their order. decided: at rungs, by trial and
            tokens.
    """

    trials: list[RecordedTrial]
    notes: dict[str, Any]
    guidance: Goals
    answers: dict[str, requests.Answer]
    thaws: list[Thawed]
    drops: list[Dropped]
    joined: list[Joined]
    decided: dict[tuple[int, int], Decided]
    _ended: list[int]  # in their order

    @property
    def finished(self) -> list[RecordedTrial]:
        """Trials that have ended, in the order in which that was recorded."""
        return [self.trials[number] for number in self._ended]

    @property
    def pending(self) -> list[RecordedTrial]:
        """Trials that were proposed and have not ended."""
        return [trial for trial in self.trials if trial.outcome is None]

    @property
    def thawing(self) -> dict[int, Thawed]:
        """Trials that were thawed and have not stopped or ended since, each with its thaw, in the order of these."""
        found = {}
        for number, thaw in enumerate(self.thaws):
            if f"{decisions.FROZEN}:{number}" not in self.notes and self.trials[thaw.trial].promoted is None:
                found[thaw.trial] = thaw
        return found

    @property
    def last_thaws(self) -> dict[int, int]:
        """Numbers of the thaws, by trial; of its last, where it has thawed again."""
        return {thaw.trial: number for number, thaw in enumerate(self.thaws)}

    @property
    def thawing_in(self) -> dict[int, Joined]:
        """Trials that were thawed, have not stopped or ended since, and joined a pack for it."""
        thawing, last = self.thawing, self.last_thaws
        return {each.trial: each for each in self.joined if each.trial in thawing and each.thaw == last[each.trial]}

    @property
    def frozen(self) -> list[RecordedTrial]:
        """Trials that a rule has stopped, and that could go on: nobody asked for their end, none trains, and their
        states are not dropped.
        """
        out, wishes = self.thawing.keys() | self.dropped, self.wishes
        stopped = (t for t in self.finished if t.final is not None and t.final.ending is Ending.STOPPED_EARLY)
        return [t for t in stopped if t.number not in out and wishes.get(t.number) != "stop"]

    @property
    def dropped(self) -> set[int]:
        """Numbers of the trials whose states were given up."""
        return {each.trial for each in self.drops}

    @property
    def stopping(self) -> dict[int, Decided]:
        """Trials that were told to stop at a rung, each with that, and of which it is not recorded that they did."""
        thawing, found = self.thawing, {}
        for (number, tokens), decided in self.decided.items():
            since = thawing[number].tokens if number in thawing else 0
            goes = number in thawing or self.trials[number].outcome is None
            if goes and decided.verdict is Verdict.STOPS and tokens > since:
                found[number] = decided
        return found

    def goes(self, number: int) -> bool:
        """Whether a trial is still to be trained in the search: it is pending, or has thawed."""
        return self.trials[number].outcome is None or number in self.thawing

    @property
    def losses_in_search(self) -> list[float]:
        """Of trials in the order in which they ended, each the lower of what came with it from one that had thawed."""
        losses = [trial.loss_in_search for trial in self.finished]
        for trial in self.trials:
            if trial.learnt:
                losses[trial.learnt - 1] = min(losses[trial.learnt - 1], trial.loss)
        return losses

    @property
    def open_block(self) -> int:
        """How many trials were proposed since the last one ended: a block that a kill cut short is completed."""
        seen = len(self._ended)
        return sum(trial.seen == seen for trial in self.trials)

    @property
    def pass_tokens(self) -> int | None:
        """Tokens of a pass for which there was memory where it had run out with more; None: it never did."""
        limits = (trial.final.pass_tokens for trial in self.trials if trial.final is not None)
        return min((tokens for tokens in limits if tokens is not None), default=None)

    @property
    def best(self) -> RecordedTrial | None:
        """The complete trial that keeps the constraints with the lowest objective; the earlier of two that are equal.

        Of several objectives: with the lowest loss; where that is none of them, the best by the first one.
        """
        return next((trial for trial in self.ranked if not trial.violation), None)

    @property
    def ranked(self) -> list[RecordedTrial]:
        """Complete trials, as `best` has it; those that violate a constraint last, the least violation first."""
        return ranked(self.complete, self.guidance)

    @property
    def pareto(self) -> list[RecordedTrial]:
        """Complete trials that keep the constraints and that no other one betters in all objectives at once."""
        signs = {each.quantity: 1.0 if each.maximize else -1.0 for each in self.guidance.objectives}
        kept = [trial for trial in self.complete if not trial.violation]
        scores = [[sign * trial.quantities[name] for name, sign in signs.items()] for trial in kept]
        optimal = pareto(np.array(scores).reshape(len(kept), len(signs)))
        return [trial for trial, on in zip(kept, optimal, strict=True) if on]

    @property
    def awaits_baseline(self) -> bool:
        """Whether nothing can be scored yet; raises as `scoring.awaits` does."""
        return awaits(self.baseline, self.guidance)

    @property
    def references(self) -> dict[str, Quantities]:
        """The quantities of the untuned model and of the baseline, as far as they are measured."""
        return references(self.notes, self.baseline)

    @property
    def complete(self) -> list[RecordedTrial]:
        """Trials that may be the best."""
        return [t for t in self.trials if t.final is not None and t.final.ending is Ending.COMPLETE]

    @property
    def baseline(self) -> RecordedTrial | None:
        """The trial that holds the baseline, where it lies in the space."""
        return next((trial for trial in self.trials if trial.origin == "baseline"), None)

    @property
    def why_not_packed(self) -> str | None:
        """What keeps trials from packs, so that `transformers` trains each alone; None: nothing, or not known yet."""
        why: str | None = (self.notes.get("trainer") or {}).get("why_not_packed")
        return why

    @property
    def wishes(self) -> dict[int, requests.Action]:
        """By trial the last of `stop` and `finish` that a person asked of it."""
        done = [
            answer for answer in self.answers.values() if answer.done and answer.request.action in ("stop", "finish")
        ]
        return {answer.trial: answer.request.action for answer in done if answer.trial is not None}

    @property
    def elapsed(self) -> float:
        """Search seconds up to the last trial that ended, or up to the last stop, which may have suspended trials."""
        return max([float(self.notes.get("elapsed") or 0.0), *(trial.elapsed for trial in self.trials)])

    @property
    def tokens(self) -> int:
        """Tokens trained on in finished trials, promotions included."""
        return sum(trial.final.tokens for trial in self.trials if trial.final is not None)
