"""The study's record: an ordered log of proposals and tells over one Optuna storage.

A proposal is durable, in one transaction, before it is submitted; a tell is durable with its order and exact value, and
never changes. `mirror` is an in-memory Optuna study of the same trials: samplers read and fill it, and only what the
record then writes counts. optuna-dashboard opens the storage as it is. One writer: see `meshtune.system.lease`
and, where hosts without a common folder share a database, `meshtune.record.lease`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.errors import InputError, MeshtuneError, SamplerError, StorageError, last_words
from meshtune.record import decisions, requests
from meshtune.record.decisions import Decided, Dropped, Joined, Thawed
from meshtune.record.distributions import MOVED, as_moved, as_written, distributions, space_of
from meshtune.record.earlier_trials import EarlierTrials, keep, kept
from meshtune.record.reading import Trials
from meshtune.record.rows import NumberTaken, write_proposal, write_tell
from meshtune.record.scoring import scored_outcome
from meshtune.record.storage import (
    create_aside,
    lasting,
    loaded,
    open_storage,
    quiet,
    refuse_missing,
    storage_errors,
)
from meshtune.record.trials import LEARNT, RecordedTrial, read_outcome, read_trial, refuse_changed, written_tell
from meshtune.space import goals
from meshtune.space.goals import Goals, Quantities
from meshtune.space.space import Space
from meshtune.trial import Ending, Outcome, Thresholds

PROMOTED = "promoted"  # with a trial's number: the note of its outcome once it was trained to the end
BESIDE_BLOCKS = "beside_blocks"  # Optuna's attribute of a trial that a person enqueued: it is in no sampler's block
WARM_START = "warm_start"  # the note that says that earlier trials were kept, and what they are
_STATES = {Ending.STOPPED_EARLY: TrialState.PRUNED, Ending.CRASHED: TrialState.FAIL}


def no_rungs(_: Mapping[str, Any]) -> Thresholds:
    """The thresholds of a trial that is not to be stopped early."""
    return ()


def nothing_known(_: Mapping[str, Any]) -> Quantities:
    """The quantities of a point before training where the goals have none."""
    return {}


class Record(Trials):
    """The open record of one study.

    Args:
        url: of the Optuna storage. name: of the study in it. space: decodes what samplers propose.
        fixed: the study's fixed keys; None opens an existing study whatever they are (to read).
        known: the goals' quantities of a point that are known before training, by its hyperparameters.
        begun: the study is there already, and a new one is not made in its place.
        fence: asked in each transaction, at its end; what it raises keeps the transaction from being written.

    Raises:
        StudyMismatch: the study was made with other fixed keys (all are listed).
        InputError: there is no such study. StorageError: the storage cannot be read or written.
    """

    def __init__(
        self,
        url: str,
        name: str,
        space: Space | None = None,
        fixed: Mapping[str, Any] | None = None,
        known: Callable[[Mapping[str, Any]], Quantities] = nothing_known,
        *,
        begun: bool = False,
        fence: Callable[[sqlalchemy.Connection], None] | None = None,
    ):
        self.space = space
        self._known = known
        directions = _directions(goals.of_fixed(fixed or {}))
        with storage_errors(url), quiet():
            if fixed is not None and not begun:
                create_aside(url, name, {"fixed": json.loads(json.dumps(fixed))}, directions)
            else:
                refuse_missing(url)
            storage = self._backend = open_storage(url)
            if fence is not None:
                sqlalchemy.event.listen(storage.engine, "commit", fence)
            if fixed is None or begun:
                self._study = loaded(storage, url, name)
            else:
                self._study = optuna.create_study(
                    study_name=name, storage=storage, directions=directions, load_if_exists=True
                )
            self._storage = self._study._storage
            self.notes: dict[str, Any] = self._study.user_attrs
            if fixed is not None:
                self._check_fixed(fixed)
            self.guidance = goals.of_fixed(self.notes.get("fixed") or {})
            self.mirror = optuna.create_study(directions=_directions(self.guidance))
            self.decided = {(each.trial, each.tokens): each for each in decisions.read(self.notes)}
            self.answers = requests.read(self.notes)
            self.trials: list[RecordedTrial] = []
            self._ids: list[int] = []
            self._described = space_of(self.notes)
            self._decoded = self._described is not None  # an earlier record goes on with the sampler's numbers
            for frozen in self._study.get_trials(deepcopy=False):
                self._load(frozen, repair=fixed is not None)
            ended = [trial for trial in self.trials if trial.order is not None]
            self._ended = [trial.number for trial in sorted(ended, key=lambda trial: trial.order or 0)]
            self.joined: list[Joined] = []
            for joined in decisions.read_joined(self.notes):
                self._in_its_pack(joined)
            self.drops = list(decisions.read_dropped(self.notes))
            self.thaws = list(decisions.read_thawed(self.notes))
            for number, thaw in enumerate(self.thaws):
                if (stood := self.notes.get(f"{decisions.FROZEN}:{number}")) is not None:
                    self._stands(thaw.trial, frozen=read_outcome(stood))
            if fixed is not None:  # to be written to: what a kill cut short is done
                there = {(each.trial, each.pack) for each in self.joined}
                for taken in decisions.read_taken(self.notes):
                    if (taken.trial, taken.pack) not in there:
                        self._take(taken)

    # -- reading

    @property
    def earlier_trials(self) -> EarlierTrials:
        """Finished trials of another study that this one starts from; they are none of its own."""
        if WARM_START not in self.notes:
            return ()
        with storage_errors(), quiet():
            return kept(self._storage, self._study.study_name)

    # -- writing

    def begin_with(self, trials: EarlierTrials, facts: Mapping[str, Any]) -> None:
        """Keep the trials of another study that this one starts from, before the first proposal; done once.

        The note of `facts` comes last: without it there was a kill, and they are kept anew.
        """
        if WARM_START in self.notes:
            return
        with storage_errors(), quiet():
            keep(self._storage, self._study.study_name, trials)
        self.note(WARM_START, dict(facts))

    def enqueue(
        self,
        hyperparameters: Mapping[str, Any],
        *,
        origin: str,
        seed: int,
        thresholds: Thresholds = (),
        enqueued_as: str | None = None,
    ) -> RecordedTrial:
        """Propose a given point; where a person asks for it, beside the sampler's blocks. Raises InputError where it is
        outside the space.
        """
        params = self._required_space().encode(hyperparameters)
        return self._propose(params, dict(hyperparameters), origin, seed, thresholds, enqueued_as=enqueued_as)

    def propose(
        self,
        sampler: BaseSampler,
        *,
        seed: int,
        thresholds: Callable[[Mapping[str, Any]], Thresholds] = no_rungs,
    ) -> RecordedTrial:
        """Let the sampler propose one point that is trained alone, and make it durable; as `propose_block`."""
        (trial,) = self.propose_block(sampler, 1, seed=seed, thresholds=thresholds)
        return trial

    def propose_block(
        self,
        sampler: BaseSampler,
        count: int,
        *,
        seed: int,
        packs: Callable[[Sequence[Mapping[str, Any]]], Sequence[int | None]] = lambda points: [None] * len(points),
        thresholds: Callable[[Mapping[str, Any]], Thresholds] = no_rungs,
    ) -> Iterator[RecordedTrial]:
        """Let the sampler propose so many points, which need no answer first, and make one after the other durable.

        Packs follow from all of them: until the first is durable, none is.

        Args:
            packs: of their hyperparameters: the pack of each (None: it is trained alone).
            thresholds: of hyperparameters: where a trial is to be stopped early.
        """
        self.mirror.sampler = sampler
        space = self._required_space()
        asked = [self._next_point(len(self.trials) + index) for index in range(count)]
        points = [space.decode(frozen.params) for frozen in asked]
        for frozen, point, pack in zip(asked, points, packs(points), strict=True):
            yield self._propose(frozen.params, point, "search", seed, thresholds(point), pack, frozen.system_attrs)

    def tell(self, outcome: Outcome, *, elapsed: float, value: float | None = None) -> RecordedTrial | None:
        """Make an outcome durable. A late one, of a trial that has ended already, is discarded: None.

        `value`: what samplers get of a trial that was stopped early; None: nothing but that it was.
        """
        trial = self.trials[outcome.trial]
        if trial.outcome is not None:
            return None
        outcome = self._with_known(trial, outcome)
        scored = scored_outcome(trial, outcome, self.guidance, self.complete, self.references)
        if outcome.ending is not Ending.STOPPED_EARLY:
            value = scored.values[0] if scored.values else None
        finished = dataclasses.replace(
            trial,
            outcome=outcome,
            order=len(self._ended),
            value=value,
            elapsed=elapsed,
            other_values=scored.values[1:],
            violations=scored.violations,
        )
        ended = self._as_optuna_has_it(finished)
        with storage_errors():
            lasting(lambda: self._write_tell(finished, ended))
        _finish(self.mirror, self._mirror_id(trial.number), ended)
        self.trials[trial.number] = finished
        self._ended.append(trial.number)
        return finished

    def decide(self, decided: Sequence[Decided], takes: Callable[[], Sequence[Joined]] = tuple) -> Sequence[Joined]:
        """Make durable what becomes of trials at rungs, before anything is done about it.

        `takes`: asked with that known, which frozen trials take places there. They thaw and join, and are returned.
        """
        self.decided.update({(each.trial, each.tokens): each for each in decided})
        taken = takes()
        number = sum(key.startswith(f"{decisions.DECIDED}:") for key in self.notes)
        self.note(f"{decisions.DECIDED}:{number}", decisions.noted(decided, taken))
        for each in taken:
            self._take(each)
        return taken

    def join(self, joined: Joined) -> None:
        """Make durable that a trial joins a pack that runs, before it does."""
        thaw = [] if joined.thaw is None else [joined.thaw]
        self.note(f"{decisions.JOINED}:{len(self.joined)}", [joined.trial, joined.pack, *joined.after, *thaw])
        self._in_its_pack(joined)

    def thaw(self, number: int) -> RecordedTrial:
        """Make durable that a trial which was stopped goes on, before it does."""
        trial = self.trials[number]
        assert trial.final is not None
        thaw = Thawed(number, trial.final.rungs[-1][0], len(self._ended))
        self.note(f"{decisions.THAWED}:{len(self.thaws)}", list(dataclasses.astuple(thaw)))
        self.thaws.append(thaw)
        return trial

    def drop(self, number: int) -> RecordedTrial:
        """Make durable that the state of a trial which was stopped, or stops, is given up, before it is."""
        trial, stopping = self.trials[number], self.stopping
        tokens = stopping[number].tokens if number in stopping else trial.final.rungs[-1][0] if trial.final else 0
        dropped = Dropped(number, tokens, len(self._ended))
        self.note(f"{decisions.DROPPED}:{len(self.drops)}", list(dataclasses.astuple(dropped)))
        self.drops.append(dropped)
        return trial

    def freeze_again(self, outcome: Outcome) -> RecordedTrial:
        """Make durable how a thawed trial stands that was stopped again."""
        last = self.last_thaws[outcome.trial]
        self.note(f"{decisions.FROZEN}:{last}", {**dataclasses.asdict(outcome), "row_losses": []})
        return self._stands(outcome.trial, frozen=outcome)

    def learn(self, number: int, value: float | None = None) -> None:
        """Have samplers see a trial that was thawed as it stands now. `value`: of one that was stopped again.

        Where it ended without a loss they keep the value that they were told, and see that it cannot be had.
        """
        trial = self.trials[number]
        outcome = trial.final
        assert outcome is not None
        if outcome.ending is not Ending.STOPPED_EARLY:
            value = trial.value if outcome.loss is None else outcome.loss
        ended = self._as_optuna_has_it(dataclasses.replace(trial, outcome=outcome, value=value))
        storage, key = self.mirror._storage, self._mirror_id(number)
        seen = storage.get_trial(key)
        seen.state, seen.values = ended.state, ended.values
        seen.intermediate_values = ended.intermediate_values
        seen._system_attrs = {**seen._system_attrs, **ended._system_attrs}
        storage._set_trial(key, seen)  # type: ignore[attr-defined]
        storage._update_cache(key, self.mirror._study_id)  # type: ignore[attr-defined]

    def answer(self, answer: requests.Answer) -> None:
        """Make durable what becomes of a request, before its file goes."""
        self.note(f"{requests.NOTE}:{answer.request.number}", answer.noted())
        self.answers[answer.request.number] = answer

    def promote(self, outcome: Outcome, *, learnt: bool = False) -> RecordedTrial:
        """Make durable how a trial ended that had been stopped early and was trained on.

        `learnt`: while the study searches, and so that its samplers may `learn` of it; else they never do.
        """
        outcome = self._with_known(self.trials[outcome.trial], outcome)
        note = {**dataclasses.asdict(outcome), "row_losses": []}
        seen = len(self._ended) if learnt else None
        self.note(f"{PROMOTED}:{outcome.trial}", note if seen is None else {**note, LEARNT: seen})
        return self._stands(outcome.trial, promoted=outcome, learnt=seen)

    def note(self, key: str, value: Any) -> None:
        """Make a small fact about the study durable."""
        with storage_errors():
            lasting(lambda: self._study.set_user_attr(key, value))
        self.notes[key] = value

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna distributions."""
        return distributions(self._required_space())

    # -- inside

    def _next_point(self, number: int) -> FrozenTrial:
        """The sampler's next point, in the mirror alone."""
        try:
            trial = self.mirror.ask(self.distributions)
        except MeshtuneError:
            raise
        except Exception as error:  # whatever a sampler raises, one of the user's own among them
            raise SamplerError(
                f"the sampler failed on trial {number}: {last_words(error)}. Everything finished is saved"
            ) from error
        return self.mirror._storage.get_trial(trial._trial_id)

    def _required_space(self) -> Space:
        if self.space is None:
            raise InputError("the record was opened to read only")
        return self.space

    def _propose(
        self,
        params: Mapping[str, Any],
        hyperparameters: Mapping[str, Any],
        origin: str,
        seed: int,
        thresholds: Thresholds,
        pack: int | None = None,
        mirrored: Mapping[str, Any] | None = None,
        enqueued_as: str | None = None,
    ) -> RecordedTrial:
        """`mirrored`: Optuna's own attributes of a trial that a sampler put into the mirror; None: it is not there."""
        seen = len(self._ended)
        last = self.trials[-1] if self.trials else None
        block = 0 if last is None else last.block + (last.seen != seen)
        pack = len(self.trials) if pack is None else pack
        proposal = {
            "origin": origin,
            "block": block,
            "seed": seed,
            "seen": seen,
            "pack": pack,
            "thresholds": [list(pair) for pair in thresholds],
        }
        beside = {}
        if enqueued_as is not None:
            proposal["enqueued_as"], beside = enqueued_as, {BESIDE_BLOCKS: True}
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=self.distributions,
            user_attrs={"proposal": proposal, "hyperparameters": dict(hyperparameters)},
            system_attrs={**(mirrored or {}), **beside},
        )
        written = as_written(template, self._required_space()) if self._decoded else template
        with storage_errors():
            trial_id = lasting(lambda: self._write_proposal(len(self.trials), written))
        if mirrored is None:
            self.mirror._storage.create_new_trial(self.mirror._study_id, template_trial=template)
        trial = RecordedTrial(len(self.trials), params, hyperparameters, origin, block, seed, seen, pack, thresholds)
        trial = dataclasses.replace(trial, enqueued_as=enqueued_as)
        self.trials.append(trial)
        self._ids.append(trial_id)
        return trial

    def _stands(self, number: int, **fields: Any) -> RecordedTrial:
        trial = self.trials[number] = dataclasses.replace(self.trials[number], **fields)
        return trial

    def _in_its_pack(self, joined: Joined) -> None:
        self.joined.append(joined)
        if joined.thaw is None:
            self._stands(joined.trial, pack=joined.pack, joins=joined.after)

    def _take(self, taken: Joined) -> None:
        """A frozen trial thaws, if it has not, and joins a pack."""
        if taken.trial not in self.thawing:
            self.thaw(taken.trial)
        self.join(dataclasses.replace(taken, thaw=self.last_thaws[taken.trial]))

    def _write_proposal(self, number: int, written: FrozenTrial) -> int:
        """Make a trial under its number; the id in the storage. It may be there: the answer was lost, not the write."""
        study_id = self._study._study_id
        try:
            return write_proposal(self._backend.engine, study_id, number, written)
        except NumberTaken as error:
            with contextlib.suppress(KeyError):
                trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
                found = self._storage.get_trial(trial_id).user_attrs
                if json.dumps(found, sort_keys=True) == json.dumps(written.user_attrs, sort_keys=True):
                    return trial_id
            raise self._another_writes() from error

    def _write_tell(self, finished: RecordedTrial, ended: FrozenTrial) -> None:
        """One attribute holds the whole tell, beside what Optuna has of it. It may be there, as a proposal may be."""
        trial_id = self._ids[finished.number]
        try:
            write_tell(self._backend.engine, trial_id, ended)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            written = self._storage.get_trial(trial_id).user_attrs.get("outcome")
            if json.dumps(written) != json.dumps(ended.user_attrs["outcome"]):
                raise self._another_writes() from error

    def _another_writes(self) -> StorageError:
        return StorageError(
            f"the storage's study `{self._study.study_name}` holds other trials than this run made: another program"
            " writes to it. End that, and run the same command again"
        )

    def _with_known(self, trial: RecordedTrial, outcome: Outcome) -> Outcome:
        """The outcome with what was known of the point before, so that all quantities stand in one place."""
        return dataclasses.replace(outcome, extra={**outcome.extra, **self._known(trial.hyperparameters)})

    def _as_optuna_has_it(self, trial: RecordedTrial) -> FrozenTrial:
        """What a tell adds to a trial: its attribute, and how Optuna records such an ending."""
        assert trial.outcome is not None
        outcome = trial.outcome
        state, constraints = _STATES.get(outcome.ending, TrialState.COMPLETE), dict[str, float]()
        if state is not TrialState.FAIL:  # on all of them: Optuna's samplers want the same constraints on every trial
            constraints["ending"] = 0.0 if outcome.ending.feasible else 1.0
            constraints |= {each.text: trial.violations.get(each.text, 0.0) for each in self.guidance.measured}
        return create_trial(
            state=state,
            values=None if state is TrialState.FAIL or trial.value is None else [trial.value, *trial.other_values],
            user_attrs={"outcome": written_tell(trial)},
            constraints=constraints,
            # Optuna compares steps of different trials, which are tokens where there are rungs.
            intermediate_values=dict(outcome.rungs if trial.thresholds else enumerate(outcome.losses, start=1)),
        )

    def _load(self, frozen: FrozenTrial, *, repair: bool) -> None:
        params = frozen.user_attrs.get(MOVED, frozen.params)
        trial = read_trial(frozen.number, params, frozen.user_attrs, self.notes.get(f"{PROMOTED}:{frozen.number}"))
        self._decoded = MOVED in frozen.user_attrs
        self.trials.append(trial)
        self._ids.append(frozen._trial_id)
        if trial.outcome is not None and not frozen.state.is_finished() and repair:
            # An earlier version wrote the attribute first, and was killed before the rest.
            _finish(self._study, frozen._trial_id, self._as_optuna_has_it(trial))
            frozen = self._storage.get_trial(frozen._trial_id)
        if self._described is not None:
            frozen = as_moved(frozen, self._described)
        self.mirror._storage.create_new_trial(self.mirror._study_id, template_trial=frozen)

    def _mirror_id(self, number: int) -> int:
        storage = self.mirror._storage
        return storage.get_trial_id_from_study_id_trial_number(self.mirror._study_id, number)

    def _check_fixed(self, fixed: Mapping[str, Any]) -> None:
        given = json.loads(json.dumps(fixed))
        if "fixed" not in self.notes:
            self.note("fixed", given)
        refuse_changed(self.notes["fixed"], given)


def _directions(guidance: Goals) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if each.maximize else StudyDirection.MINIMIZE for each in guidance.objectives]


def _finish(study: optuna.Study, trial_id: int, ended: FrozenTrial) -> None:
    """End a running trial of a study as `ended` did, field by field; what is there already stays."""
    for step, loss in ended.intermediate_values.items():
        study._storage.set_trial_intermediate_value(trial_id, step, loss)
    written = optuna.Trial(study, trial_id)
    with warnings.catch_warnings(action="ignore"):
        for text, value in ended.constraints.items():
            written.set_constraint(text, value)
    study._storage.set_trial_state_values(trial_id, ended.state, ended.values)
