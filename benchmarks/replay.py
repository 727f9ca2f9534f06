"""A search replayed on learning curves: what meshtune's loop would do, without training anything, in memory.

`EarlyStopping` decides and tells as in a study, from a log that has of the record what it reads; samplers are built as
a study builds them and see the trials as the record writes them (its test holds the two against each other). A block is
a pack: its trials reach each rung together, and what is decided there sees all of them. Optuna's
pruners get the same curves one rung at a time, from its own TPE, one trial after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from learning_curves import Borrowing, Surrogate
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from meshtune.config import presets
from meshtune.config.budget import EarlyStoppingConfig
from meshtune.config.sections import SamplerConfig
from meshtune.record.decisions import IN_PACK, Decided
from meshtune.record.distributions import distributions
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.build import build
from meshtune.stopping.decisions import EarlyStopping
from meshtune.study.ends import Ends
from meshtune.trial import Ending, Outcome, Rung, Thresholds, Verdict

EPOCH_TOKENS = 100_000  # of a made-up training: shares of it are told apart to a thousandth of a percent
EPOCHS = 2
WHOLE = EPOCHS * EPOCH_TOKENS
SPACE = presets.recommended()


# What a pack says, and what it is told of those that stand at a rung.
Trained = Generator[Rung | Outcome, Mapping[int, Verdict] | None, None]


@dataclass(frozen=True)
class Course:
    """The curves of one study, whose trials have all the same seed."""

    surrogate: Surrogate | Borrowing
    seed: int
    known: dict[Any, Any] = field(default_factory=dict)

    def curve(self, params: Mapping[str, Any]) -> list[float]:
        key = tuple(sorted(params.items()))
        if key not in self.known:
            self.known[key] = self.surrogate.curve(params, self.seed).tolist()
        found: list[float] = self.known[key]
        return found

    def final(self, params: Mapping[str, Any]) -> float:
        """The objective: the loss of the best epoch."""
        fractions = self.surrogate.fractions
        return min(self.curve(params)[fractions.index(share)] for share in self.surrogate.ends)

    def at(self, params: Mapping[str, Any], share: float) -> float:
        return self.curve(params)[self.surrogate.fractions.index(share)]

    def spent(self, share: float) -> int:
        """Tokens that a trial has trained on when it is measured at a rung: a step goes past it."""
        return round(WHOLE * self.surrogate.tokens[self.surrogate.fractions.index(share)])

    def pack(self, trials: Sequence[RecordedTrial], shares: tuple[float, ...]) -> Trained:
        """Trials that train together: at each rung those that search wait for what is decided of them. One that was
        stopped goes on from there.
        """
        stood = {trial.number: [*trial.final.rungs] if trial.final else [] for trial in trials}
        reached: dict[int, list[tuple[int, float]]] = stood
        going = list(trials)
        for index, share in enumerate(shares):
            waiting = [trial for trial in going if trial.thresholds and len(reached[trial.number]) <= index]
            for trial in waiting:
                reached[trial.number].append((trial.thresholds[index][0], self.at(trial.params, share)))
            asking = [trial.number for trial in waiting if trial.origin == "search"]
            verdicts: Mapping[int, Verdict] = {}
            if asking:
                verdicts = yield Rung(trials[0].number, 1, tuple((n, *reached[n][-1]) for n in asking))
            for trial in waiting:
                if verdicts.get(trial.number) is Verdict.STOPS:
                    going.remove(trial)
                    rungs, spent = tuple(reached[trial.number]), self.spent(share)
                    end = Ending.STOPPED_EARLY
                    yield Outcome(trial.number, 1, end, loss=rungs[-1][1], rungs=rungs, tokens=spent)
        for trial in going:
            rungs, loss = tuple(reached[trial.number]), self.final(trial.params)
            yield Outcome(trial.number, 1, Ending.COMPLETE, loss=loss, rungs=rungs, tokens=WHOLE)


class Log:
    """Of a record what early stopping reads, and an Optuna study as the record's mirror holds it."""

    def __init__(self, noise: float | None = None):
        self.space = distributions(SPACE)
        self.mirror = optuna.create_study()
        self.trials: list[RecordedTrial] = []
        self.finished: list[RecordedTrial] = []
        self.notes: dict[str, Any] = {IN_PACK: True} | ({} if noise is None else {"seed_noise": {"deviation": noise}})
        self.decided: dict[tuple[int, int], Decided] = {}
        self.thawing: dict[int, Any] = {}

    @property
    def frozen(self) -> list[RecordedTrial]:
        stopped = [t for t in self.trials if t.final is not None and t.final.ending is Ending.STOPPED_EARLY]
        return [trial for trial in stopped if trial.number not in self.thawing]

    def goes(self, number: int) -> bool:
        return self.trials[number].outcome is None or number in self.thawing

    def thaw(self, number: int) -> RecordedTrial:
        self.thawing[number] = None
        return self.trials[number]

    def stood(self, outcome: Outcome, value: float | None) -> None:
        """One that was thawed has stopped again or ended, and samplers see how it stands."""
        del self.thawing[outcome.trial]
        complete = outcome.ending is Ending.COMPLETE
        fields = {"promoted": outcome, "learnt": len(self.finished)} if complete else {"frozen": outcome}
        trial = self.trials[outcome.trial] = dataclasses.replace(self.trials[outcome.trial], **fields)  # type: ignore[arg-type]
        self.finished[trial.order or 0] = trial
        storage = self.mirror._storage
        seen = storage.get_trial(self.mirror.trials[trial.number]._trial_id)
        seen.state = TrialState.COMPLETE if complete else TrialState.PRUNED
        seen.value = outcome.loss if complete else value
        seen.intermediate_values = dict(outcome.rungs)
        storage._set_trial(seen._trial_id, seen)  # type: ignore[attr-defined]

    def ask(self, sampler: Any) -> dict[str, Any]:
        self.mirror.sampler = sampler
        return self.mirror.ask(self.space).params

    def add(self, params: Mapping[str, Any], thresholds: Thresholds) -> None:
        number, seen = len(self.trials), len(self.finished)
        origin = "search" if number else "baseline"
        trial = RecordedTrial(number, params, SPACE.decode(params), origin, 0, 0, seen, thresholds=thresholds)
        self.trials.append(trial)

    def tell(self, outcome: Outcome, value: float | None) -> None:
        stopped = outcome.ending is Ending.STOPPED_EARLY
        value = value if stopped else outcome.loss
        trial = dataclasses.replace(self.trials[outcome.trial], outcome=outcome, order=len(self.finished), value=value)
        self.trials[outcome.trial] = trial
        self.finished.append(trial)
        storage, number = self.mirror._storage, self.mirror.trials[outcome.trial]._trial_id
        for step, loss in outcome.rungs:
            storage.set_trial_intermediate_value(number, step, loss)
        optuna.Trial(self.mirror, number).set_constraint("ending", 0.0)
        state = TrialState.PRUNED if stopped else TrialState.COMPLETE
        storage.set_trial_state_values(number, state, None if value is None else [value])


@dataclass
class Spent:
    """One search, trial by trial.

    Attributes:
        tokens: spent in all when the trial ended. loss: its objective had it been trained to its end.
        finished: whether it was. promoted: tokens and loss of what was trained on after the search.
        thaws: of stopped trials, in the search. further: tokens of these since the last trial ended. thawed: of those
            that came to their end so, tokens in all, and loss.
    """

    tokens: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    promoted: list[tuple[int, float]] = field(default_factory=list)
    thaws: int = 0
    further: int = 0
    thawed: list[tuple[int, float]] = field(default_factory=list)

    def add(self, tokens: int, loss: float, finished: bool) -> None:
        self.tokens.append((self.tokens[-1] if self.tokens else 0) + self.further + tokens)
        self.further = 0
        self.loss.append(loss)
        self.finished.append(finished)

    def go_on(self, tokens: int, loss: float, finished: bool) -> None:
        """What a trial was trained on further once it had thawed."""
        self.thaws += 1
        self.further += tokens
        if finished:
            self.thawed.append(((self.tokens[-1] if self.tokens else 0) + self.further, loss))

    @property
    def total(self) -> int:
        """Tokens in all, with what was trained on after the search."""
        return self.tokens[-1] + self.further + sum(tokens for tokens, _ in self.promoted)

    @property
    def best(self) -> float:
        """Of what was finished or promoted."""
        done = [loss for loss, finished in zip(self.loss, self.finished, strict=True) if finished]
        return min(done + [loss for _, loss in [*self.thawed, *self.promoted]])

    def reached(self, target: float) -> float:
        """Tokens when a finished or promoted trial first had the target or less; infinite where none had."""
        ends = zip(self.tokens, self.loss, self.finished, strict=True)
        first = next((tokens for tokens, loss, finished in ends if finished and loss <= target), math.inf)
        first = min([first, *(tokens for tokens, loss in self.thawed if loss <= target)])
        if math.isinf(first):
            spent = self.tokens[-1] + self.further
            for tokens, loss in self.promoted:
                spent += tokens
                if loss <= target:
                    return spent
        return first

    def keeps_a_leader(self, within: float) -> bool:
        """Whether one is finished or promoted that is as good as the best of all trials, had all been finished."""
        return self.best <= min(self.loss) + within


@dataclass(frozen=True)
class Search:
    """A search by meshtune: sampler, trials proposed together, and the section `early_stopping` (None: without)."""

    sampler: Literal["mads", "tpe", "batch-gp"]
    block: int
    stopping: EarlyStoppingConfig | None = None


def replayed(
    search: Search, surrogate: Surrogate | Borrowing, seed: int, trials: int, noise: float | None = None
) -> Spent:
    """A search of so many trials, the baseline first, then what is promoted."""
    course, log, spent = Course(surrogate, seed), Log(noise), Spent()
    early = None if search.stopping is None else EarlyStopping(search.stopping, EPOCHS, EPOCH_TOKENS, space=SPACE)
    shares = () if search.stopping is None else search.stopping.rungs
    start = SPACE.encode(presets.RECOMMENDED_BASELINE)
    predicted = search.stopping is not None and search.stopping.value == "predicted"
    pruned: Literal["value", "failed"] = "value" if predicted else "failed"
    config = SamplerConfig(name=search.sampler)
    ends = None if early is None else Ends(early, SPACE)
    sampler = build(config, log.space, x0=start, block_size=search.block, seed=seed, pruned=pruned, ends=ends)

    def answer(trials: Sequence[RecordedTrial]) -> None:
        pack = course.pack(trials, shares)
        event = next(pack, None)
        while event is not None:
            if isinstance(event, Rung):
                assert early is not None
                decided = early.decide(log, event)  # type: ignore[arg-type]
                log.decided |= {(each.trial, each.tokens): each for each in decided}
                event = pack.send({each.trial: each.verdict for each in decided})
                continue
            value = None if early is None else early.value(log, event)  # type: ignore[arg-type]
            final, complete = course.final(log.trials[event.trial].params), event.ending is Ending.COMPLETE
            if (before := log.trials[event.trial].final) is not None:
                log.stood(event, value)
                spent.go_on(event.tokens - before.tokens, final, complete)
            else:
                log.tell(event, value)
                spent.add(event.tokens, final, complete)
            event = next(pack, None)

    try:
        log.mirror.enqueue_trial(start)
        params = log.ask(RandomSampler(0))
        log.add(params, () if early is None else early.measured(SPACE.decode(params)))
        while len(log.finished) < trials:
            for _ in range(min(sampler.available(log.mirror), trials - len(log.trials))):
                params = log.ask(sampler)
                log.add(params, () if early is None else early.proposed(log, SPACE.decode(params)))  # type: ignore[arg-type]
            answer(log.trials[len(log.finished) :])
            while early is not None and len(log.finished) < trials and (thaws := early.thaws(log, lambda _: True)):  # type: ignore[arg-type]
                answer([log.thaw(thaws[0])])
    finally:
        sampler.close()
    if early is not None:
        for number in early.promising(log):  # type: ignore[arg-type]
            trial = log.trials[number]
            assert trial.outcome is not None
            spent.promoted.append((WHOLE - trial.outcome.tokens, course.final(trial.params)))
    return spent


def pruned(pruner: BasePruner, surrogate: Surrogate | Borrowing, seed: int, trials: int) -> Spent:
    """A search by Optuna's TPE with one of its pruners, asked at each rung; steps are percent of a training."""
    course, spent = Course(surrogate, seed), Spent()
    name = f"search {seed}"  # which Hyperband draws the brackets by
    study = optuna.create_study(study_name=name, sampler=TPESampler(seed=seed), pruner=pruner)
    study.enqueue_trial(SPACE.encode(presets.RECOMMENDED_BASELINE))
    for _ in range(trials):
        trial = study.ask(distributions(SPACE))
        final = course.final(trial.params)
        for share in surrogate.fractions:
            trial.report(course.at(trial.params, share), round(100 * share))
            if share < 1 and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                spent.add(course.spent(share), final, False)
                break
        else:
            study.tell(trial, final)
            spent.add(WHOLE, final, True)
    return spent
