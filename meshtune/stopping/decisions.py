"""Early stopping in a study: which trials are compared, and what the rules of `meshtune.stopping.rules`, or the model
of points and curves, say of them.

Only trials of one schedule are compared: those that train on the same tokens in the same way, whatever is adapted. A
decision is made when a trial stands at a rung, from all that has been measured by then: trials that have ended, those
that run, and those that stand there with it, whatever their pack. It is in the record before the trial hears of it, so
that one that is trained again takes the same way. In studies of earlier versions it was made when the trial was
proposed, and written with the proposal; they go on so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from meshtune.config.budget import FEWEST_FINISHED, EarlyStoppingConfig
from meshtune.config.sections import TrainingConfig
from meshtune.record.decisions import IN_PACK, Decided
from meshtune.record.distributions import distributions
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.space import Array, Cube, Indices
from meshtune.space.space import Space
from meshtune.stopping.freeze_thaw import Measured, Model, fit, updated
from meshtune.stopping.places import chances
from meshtune.stopping.rules import Curve, Rule, Stopping
from meshtune.trial import Ending, Outcome, Rung, Thresholds, Verdict

DEFAULT: Rule = "asha"  # docs/decisions/2026-11-26-early-stopping.md
SCHEDULE = ("epochs", "batch_size", "warmup_ratio", "lr_scheduler")  # hyperparameters that may make it another one


@dataclass(frozen=True)
class EarlyStopping:
    """The rules of one study.

    Attributes:
        config: the section `early_stopping`. epochs: of a trial whose hyperparameters name none.
        epoch_tokens: of the training rows, padding left out. validation_rows: that there are; None: not known.
        training, training_rows: how trials train where hyperparameters do not say it, and on how many rows; None: not
            known.
        space: of the points that the rule `model` sees; None: another rule decides.
        state: bytes that a trial with these hyperparameters keeps when it is stopped, by whether an epoch was validated
            by then; None: not known, and no disk is counted.
    """

    config: EarlyStoppingConfig
    epochs: int
    epoch_tokens: int
    validation_rows: int | None = None
    training: TrainingConfig | None = None
    training_rows: int = 0
    space: Space | None = None
    state: Callable[[Mapping[str, Any], bool], int] | None = None
    _fitted: dict[Any, tuple[Any, Model]] = field(default_factory=dict, compare=False, repr=False)  # by schedule
    _last: dict[Any, tuple[Any, dict[int, _End]]] = field(default_factory=dict, compare=False, repr=False)  # likewise

    def described(self) -> dict[str, Any]:
        """What must not change while a study goes on."""
        none = set() if self.config.freeze else {"freeze"}  # earlier versions had none
        dumped = self.config.model_dump(mode="json", exclude={"promote", "value", "disk"} | none)
        return {**dumped, "told": self.config.value, "rule": self._rule, "startup": self._startup}  # records' own word

    def __str__(self) -> str:
        config = self.config
        *shares, last = [f"{100 * share:g}" for share in config.rungs]
        at = f"{', '.join(shares)} and {last}" if shares else last
        there = self.validation_rows
        few = there is not None and there <= config.rows
        rows = f"the {there} validation rows" if few else f"{config.rows} validation rows"
        if self.training is None:  # another tool's, which is evaluated as its own settings say
            return f"by the rule {self._rule}, at {at} % of a trial's epochs; at most {config.promote} promoted"
        return f"by the rule {self._rule}, at {at} % of a trial's tokens on {rows}; at most {config.promote} promoted"

    def rungs(self, hyperparameters: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens after which a trial is measured."""
        whole, found = self.tokens(hyperparameters), list[int]()
        for fraction in self.shares(hyperparameters):
            found.append(max(math.ceil(fraction * whole), found[-1] + 1 if found else 1))
        return tuple(found)

    def shares(self, hyperparameters: Mapping[str, Any]) -> tuple[float, ...]:
        """Of a trial's tokens at its rungs: those of the configuration, but none that its first step reaches.

        A warm-up begins at a learning rate of 0: there all adapters are still untrained, and nothing tells them apart.
        The first step is taken to have its share of the tokens, as rows are shuffled.
        """
        values = {} if self.training is None else self.training.model_dump() | dict(hyperparameters)
        if not values.get("warmup_ratio"):
            return tuple(self.config.rungs)
        a_step = int(values["batch_size"]) * values["gradient_accumulation"]
        steps = int(values["epochs"]) * math.ceil(self.training_rows / a_step)
        return tuple(share for share in self.config.rungs if share * steps > 1)

    def tokens(self, hyperparameters: Mapping[str, Any]) -> int:
        """Of a whole trial."""
        return int(hyperparameters.get("epochs", self.epochs)) * self.epoch_tokens

    def measured(self, hyperparameters: Mapping[str, Any]) -> Thresholds:
        """Rungs at which nothing is decided."""
        return tuple((tokens, None) for tokens in self.rungs(hyperparameters))

    def proposed(self, record: Record, hyperparameters: Mapping[str, Any]) -> Thresholds:
        """The rungs of a trial that is proposed now."""
        inside = record.notes.get(IN_PACK)
        return self.measured(hyperparameters) if inside else self.thresholds(record, hyperparameters)

    def decide(self, record: Record, rung: Rung) -> list[Decided]:
        """What becomes of the trials that stand at a rung; of those alone of which nothing is decided yet."""
        new = {
            (trial, tokens): loss
            for trial, tokens, loss in sorted(rung.losses)
            if (trial, tokens) not in record.decided and record.goes(trial)
        }
        running = _measured_so_far(record) | new
        if self._rule == "model":
            return self._by_model(record, new, running)
        thawing, found = record.thawing, []
        ended = [trial for trial in record.finished if trial.number not in thawing]
        for (number, tokens), loss in new.items():
            hyperparameters = record.trials[number].hyperparameters
            rungs, rules = self.rungs(hyperparameters), self._rules(hyperparameters)
            finished = self._curves(_alike(ended, hyperparameters), rungs)
            others = _running(record, running, hyperparameters, rungs)
            own = others.pop(number, Curve(()))
            losses = rules.thresholds([*finished, *others.values(), own])
            threshold = dict(zip(rungs, losses, strict=True)).get(tokens)
            goes_on = threshold is None or loss <= threshold
            if not goes_on and number in thawing and own.rungs:  # it went on since its end looked good
                curves = [*finished, *others.values(), own]
                goes_on = len(curves) - 1 in rules.worth_more(curves, _noise(record))
            if goes_on:
                found.append(Decided(number, tokens, loss, Verdict.GOES_ON))
                continue
            value = None
            if self.config.value == "predicted" and own.rungs:
                until = Curve(own.rungs[: rungs.index(tokens) + 1])
                value = rules.predicted_value([*finished, *others.values()], until)
            found.append(Decided(number, tokens, loss, Verdict.STOPS, value))
        return found

    def thresholds(self, record: Record, hyperparameters: Mapping[str, Any]) -> Thresholds:
        """Of a trial that is proposed now, in a study of an earlier version."""
        rungs = self.rungs(hyperparameters)
        losses = self._rules(hyperparameters).thresholds(self._curves(_alike(record.finished, hyperparameters), rungs))
        return tuple(zip(rungs, losses, strict=True))

    def value(self, record: Record, outcome: Outcome) -> float | None:
        """What samplers get of a trial that was stopped; None: only that it was."""
        if outcome.ending is not Ending.STOPPED_EARLY or self.config.value == "failed":
            return None
        trial = record.trials[outcome.trial]
        decided = [record.decided.get((outcome.trial, tokens)) for tokens, _ in outcome.rungs]
        for each in reversed(decided):  # one that had thawed has stopped before
            if each is not None and each.verdict is Verdict.STOPS:
                return each.value
        before = record.finished[: trial.seen]  # as it was proposed: order of arrival in a block decides nothing
        rungs = self.rungs(trial.hyperparameters)
        if not (losses := _losses(outcome, rungs)):
            return None
        curves = self._curves(_alike(before, trial.hyperparameters), rungs)
        return self._rules(trial.hyperparameters).predicted_value(curves, Curve(losses))

    def promising(self, record: Record, limit: int | None = None) -> list[int]:
        """Numbers of the stopped trials that may still be the best, the likeliest first, at most `promote` of them.

        Those that were promoted count among them, so that the answer is the same before and after. `limit`: instead of
        `promote`.
        """
        limit = self.config.promote if limit is None else limit
        if self._rule == "model":
            stopped = [t.number for t in record.finished if t.outcome and t.outcome.ending is Ending.STOPPED_EARLY]
            return self._likely(record, stopped)[:limit]
        found, noise = [], _noise(record)
        for group in _groups(record.finished).values():
            rules = self._rules(group[0].hyperparameters)
            curves = self._curves(group, self.rungs(group[0].hyperparameters))
            for index in rules.promising(curves, limit, noise):
                prediction = rules.predicted(curves, curves[index])
                found.append((math.inf if prediction is None else prediction.mean, group[index].number))
        return [number for _, number in sorted(found)[:limit]]

    def thaws(self, record: Record, free: Callable[[int], bool]) -> list[int]:
        """Numbers of the frozen trials that promise more than a new point, or, by the rule `model`, that it would not
        stop any more; the most promising first.

        `free`: says of a number whether that trial may go on now.
        """
        frozen = {trial.number for trial in record.frozen if free(trial.number)} if self.config.freeze else set[int]()
        if not frozen:
            return []
        if self._rule == "model":
            return self._likely(record, frozen)
        thawing, found = record.thawing, []
        ended = [trial for trial in record.finished if trial.number not in thawing]
        for group in _groups(ended).values():
            rules, rungs = self._rules(group[0].hyperparameters), self.rungs(group[0].hyperparameters)
            worth = rules.worth_more(self._curves(group, rungs), _noise(record))
            found += [(place, group[index].number) for place, index in enumerate(worth)]
        return [number for _, number in sorted(found) if number in frozen]

    def drops(self, record: Record) -> list[int]:
        """Numbers of the stopped trials whose states go, the least promising first, so that what is left is within the
        disk's limit; those that stop now among them, and none that trains on or that a person wants finished.

        By the figure that decides which of them thaw: the chance to become the best for each token that is left.
        """
        limit, state = self.config.disk, self.state
        if limit is None or state is None:
            return []
        out = record.dropped
        tokens = {number: each.tokens for number, each in record.stopping.items() if number not in out}
        tokens |= {trial.number: trial.final.rungs[-1][0] for trial in record.frozen if trial.final is not None}
        open_ = [number for number in tokens if record.wishes.get(number) != "finish"]
        tokens |= {number: thaw.tokens for number, thaw in record.thawing.items() if number not in tokens}
        sizes = {n: state(record.trials[n].hyperparameters, at >= self.epoch_tokens) for n, at in tokens.items()}
        left, found = sum(sizes.values()) - limit, list[int]()
        worth = self._worth(record) if left > 0 else {}
        for number in sorted(open_, key=lambda number: (worth.get(number, (0.0, -math.inf)), -number)):
            if left <= 0:
                break
            left -= sizes[number]
            found.append(number)
        return found

    def fitted(
        self, alike: tuple[Any, ...], points: Array, columns: Indices, curves: Sequence[tuple[Measured, ...]]
    ) -> Model:
        """The model of these trials of one schedule; the last one is kept, since whoever proposes asks for the same as
        what has just been decided by.
        """
        fitted_to = points.tobytes(), list(curves)
        if alike not in self._fitted or self._fitted[alike][0] != fitted_to:
            self._fitted[alike] = fitted_to, fit(points, columns, curves)
        return self._fitted[alike][1]

    # -- inside

    def _by_model(
        self, record: Record, new: Mapping[tuple[int, int], float], running: Mapping[tuple[int, int], float]
    ) -> list[Decided]:
        """A trial goes on while its chance is at least 1 - `confidence`."""
        ends, found = dict[Any, Mapping[int, _End] | None](), list[Decided]()
        for (number, tokens), loss in new.items():
            hyperparameters = record.trials[number].hyperparameters
            alike = schedule(hyperparameters)
            if alike not in ends:
                now = _running(record, running, hyperparameters, self.rungs(hyperparameters))
                ends[alike] = self._ends(record, hyperparameters, now)
            known = ends[alike]
            end = None if known is None else known.get(number, _End(0.0, None))  # its loss is infinite
            if end is None or end.chance >= 1 - self.config.confidence:
                found.append(Decided(number, tokens, loss, Verdict.GOES_ON))
            else:
                value = end.loss if self.config.value == "predicted" else None
                found.append(Decided(number, tokens, loss, Verdict.STOPS, value))
        return found

    def _likely(self, record: Record, numbers: Collection[int]) -> list[int]:
        """Of these trials those that the model would not stop, the likeliest first."""
        found = list[tuple[float, int]]()
        for group in _groups(record.finished).values():
            if any(trial.number in numbers for trial in group):
                hyperparameters = group[0].hyperparameters
                now = _now(record, hyperparameters, self.rungs(hyperparameters))
                ends = self._ends(record, hyperparameters, now) or {}
                found += [(-end.chance, number) for number, end in ends.items() if number in numbers]
        return [number for chance, number in sorted(found) if -chance >= 1 - self.config.confidence]

    def _ends(
        self, record: Record, hyperparameters: Mapping[str, Any], running: Mapping[int, Curve]
    ) -> dict[int, _End] | None:
        """What the model says of the trials of this schedule that have not come to their end; None while too few have.

        `running`: curves of those that train. Parameters are fitted to the trials that have ended, so that they are the
        same however often they are asked for, and are kept until another one ends. So is the answer, while nothing else
        is known.
        """
        assert self.space is not None
        rungs, shares = self.rungs(hyperparameters), self.shares(hyperparameters)
        ended = _alike([t for t in record.finished if t.number not in {*record.thawing, *running}], hyperparameters)
        curves = dict(zip((trial.number for trial in ended), self._curves(ended, rungs), strict=True)) | dict(running)
        known = {number: _measured(curves[number], shares) for number in sorted(curves)}
        known = {number: curve for number, curve in known.items() if curve}
        finished = np.array([curves[number].final is not None for number in known], dtype=bool)
        if finished.sum() < self._startup:
            return None
        cube = Cube(Encoding(distributions(self.space)))
        points = cube.features(cube.rows([record.trials[number].params for number in known]))
        at = [place for place, number in enumerate(known) if number not in running]
        curves_at = [known[number] for number in known if number not in running]
        alike, noise = schedule(hyperparameters), _noise(record)
        seen = points.tobytes(), known, at, noise
        if alike in self._last and self._last[alike][0] == seen:
            return self._last[alike][1]
        model = updated(self.fitted(alike, points[at], cube.columns, curves_at), points, list(known.values()))
        finals = model.final()
        likely = chances(finals, finished, model.best - noise).tolist()
        losses = np.maximum(finals.at(0.5), math.nextafter(model.best, math.inf)).tolist()
        found = zip(known, likely, losses, finished.tolist(), strict=True)
        self._last[alike] = seen, {number: _End(chance, loss) for number, chance, loss, done in found if not done}
        return self._last[alike][1]

    def _worth(self, record: Record) -> dict[int, tuple[float, float]]:
        """Of the trials that are stopped, or stop now: the chance to become the best for each token that is left, and
        the last loss, its sign turned.
        """
        stopping, noise, found = record.stopping, _noise(record), dict[int, tuple[float, float]]()
        out = record.thawing.keys() | stopping.keys()
        groups = _groups([trial for trial in record.finished if trial.number not in out])
        for number in stopping:
            trial = record.trials[number]
            groups.setdefault(schedule(trial.hyperparameters), []).append(trial)
        measured = {key: each.loss for key, each in record.decided.items() if key[0] in stopping}
        for group in groups.values():
            hyperparameters = group[0].hyperparameters
            rules, rungs = self._rules(hyperparameters), self.rungs(hyperparameters)
            now = _running(record, measured, hyperparameters, rungs)
            curves = [now.get(t.number) or self._curves([t], rungs)[0] for t in group]
            if self._rule == "model":
                ends = self._ends(record, hyperparameters, _now(record, hyperparameters, rungs)) or {}
                chance = [ends[t.number].chance if t.number in ends else 0.0 for t in group]
                worths = [each / (1 - rules.share(curve)) for each, curve in zip(chance, curves, strict=True)]
            else:
                worths = rules.worth(curves, noise)
            for trial, curve, worth in zip(group, curves, worths, strict=True):
                last = curve.rungs[-1] if curve.rungs else math.inf
                found[trial.number] = worth / self.tokens(hyperparameters), -last
        return found

    def _curves(self, trials: Sequence[RecordedTrial], rungs: Sequence[int]) -> list[Curve]:
        """Their losses as they ended in the search; whatever was promoted after it."""
        found = []
        for trial in trials:
            later = trial.promoted is not None and trial.learnt is None
            outcome = trial.frozen or trial.outcome if later else trial.final
            if outcome is not None:
                final = outcome.loss if outcome.ending is Ending.COMPLETE else None
                found.append(Curve(_losses(outcome, rungs), final))
        return found

    @property
    def _rule(self) -> Rule | Literal["model"]:
        rule = self.config.rule
        assert rule != "none"
        return DEFAULT if rule == "default" else rule

    def _rules(self, hyperparameters: Mapping[str, Any]) -> Stopping:
        config, shares = self.config, self.shares(hyperparameters)
        rule = DEFAULT if self._rule == "model" else self._rule  # of which only predictions would be asked
        return Stopping(rule, shares, startup=self._startup, keep=config.keep, confidence=config.confidence)

    @property
    def _startup(self) -> int:
        """With fewer, nothing could be predicted for what was stopped."""
        return max(self.config.startup, FEWEST_FINISHED)


class _End(NamedTuple):
    """Of a trial's end: the chance that it is the lowest, by more than the noise, and the loss, above the best; None
    where it cannot be predicted.
    """

    chance: float
    loss: float | None


def _measured(curve: Curve, shares: Sequence[float]) -> tuple[Measured, ...]:
    """A curve as the model sees it; nothing where a loss is infinite."""
    found = [*zip(shares, curve.rungs, strict=False), *([] if curve.final is None else [(1.0, curve.final)])]
    return tuple(found) if all(math.isfinite(loss) for _, loss in found) else ()


def _groups(finished: Sequence[RecordedTrial]) -> dict[tuple[Any, ...], list[RecordedTrial]]:
    """Trials that can be compared, by schedule, in the order in which they ended.

    They have rungs, and ended by themselves or by a rule; one that diverged says nothing of the others.
    """
    groups: dict[tuple[Any, ...], list[RecordedTrial]] = {}
    for trial in finished:
        if trial.outcome and trial.outcome.rungs and trial.outcome.ending.feasible:
            groups.setdefault(schedule(trial.hyperparameters), []).append(trial)
    return groups


def _alike(finished: Sequence[RecordedTrial], hyperparameters: Mapping[str, Any]) -> list[RecordedTrial]:
    """Of these trials those of the same schedule."""
    return _groups(finished).get(schedule(hyperparameters), [])


def _noise(record: Record) -> float:
    """The deviation between seeds, where that was measured."""
    return float((record.notes.get("seed_noise") or {}).get("deviation") or 0.0)


def _running(
    record: Record, losses: Mapping[tuple[int, int], float], hyperparameters: Mapping[str, Any], rungs: Sequence[int]
) -> dict[int, Curve]:
    """Curves of the same schedule so far, by trial, of losses by trial and tokens."""
    alike = schedule(hyperparameters)
    measured: dict[int, dict[int, float]] = {}
    for (trial, tokens), loss in sorted(losses.items()):
        if schedule(record.trials[trial].hyperparameters) == alike:
            measured.setdefault(trial, {})[tokens] = loss
    return {trial: Curve(in_a_row(found, rungs)) for trial, found in measured.items()}


def _now(record: Record, hyperparameters: Mapping[str, Any], rungs: Sequence[int]) -> dict[int, Curve]:
    """Curves of the same schedule of all trials that train, as far as the record has them."""
    return _running(record, _measured_so_far(record), hyperparameters, rungs)


def _measured_so_far(record: Record) -> dict[tuple[int, int], float]:
    """Losses at the rungs that trials which train have passed."""
    return {key: each.loss for key, each in record.decided.items() if record.goes(key[0])}


def _losses(outcome: Outcome, rungs: Sequence[int]) -> tuple[float, ...]:
    """At these rungs, as far as it came. Earlier versions measured some more, which are left out."""
    return in_a_row(dict(outcome.rungs), rungs)


def in_a_row(measured: Mapping[int, float], rungs: Sequence[int]) -> tuple[float, ...]:
    """Losses at the first rungs, up to the first at which nothing was measured."""
    return tuple(measured[tokens] for tokens in itertools.takewhile(measured.__contains__, rungs))


def schedule(hyperparameters: Mapping[str, Any]) -> tuple[Any, ...]:
    """What trials have in common whose losses at a rung can be compared."""
    return tuple(hyperparameters.get(name) for name in SCHEDULE)
