"""Earlier trials: finished trials of another study, in this study's space, from which a study starts.

They are kept as an Optuna study of their own in the record's storage, so that a study goes on without the other one,
and are trials of no study of ours. `meshtune.record.log` says when; samplers get them as Optuna's finished trials.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.errors import Fault, InputError
from meshtune.record.distributions import distributions
from meshtune.record.trials import RecordedTrial
from meshtune.space.space import Space
from meshtune.trial import Ending

EarlierTrials = tuple[FrozenTrial, ...]


@dataclass(frozen=True)
class EarlierPoints:
    """The trials of another study, as a space has them.

    Attributes:
        trials: its complete trials with their value, and its failed ones (FAIL), over this space's distributions.
        outside: for each finished trial that lies outside, why: a fault a hyperparameter.
    """

    trials: EarlierTrials
    outside: tuple[tuple[Fault, ...], ...]

    @property
    def complete(self) -> int:
        """Trials that have a value."""
        return sum(trial.state is TrialState.COMPLETE for trial in self.trials)

    def why_outside(self) -> str:
        """In words: the hyperparameters that lie outside, and in how many trials, the most frequent first."""
        found: dict[str, list[str]] = {}
        for faults in self.outside:
            for fault in faults:
                found.setdefault(fault.key, []).append(fault.message)
        ranked = sorted(found.items(), key=lambda item: -len(item[1]))
        return "; ".join(
            f"`{name}` in {len(messages)} of {len(self.outside)}: {messages[0].removesuffix(' (the space)')}"
            for name, messages in ranked
        )


def earlier_in(space: Space, trials: Iterable[RecordedTrial]) -> EarlierPoints:
    """The finished trials of another study as this space has them, in their order.

    A point is the same by its decoded hyperparameters, however the other space encodes it. Trials that were stopped
    early, and not promoted, have no value to compare and are left out.
    """
    inside: list[FrozenTrial] = []
    outside: list[tuple[Fault, ...]] = []
    for trial in trials:
        outcome = trial.final
        if outcome is None or outcome.ending is Ending.STOPPED_EARLY:
            continue
        try:
            params = space.encode(trial.hyperparameters)
        except InputError as error:
            outside.append(error.faults)
            continue
        complete = outcome.ending is Ending.COMPLETE
        made = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            value=float(outcome.loss) if complete and outcome.loss is not None else None,
            params=dict(sorted(params.items())),
            distributions=distributions(space),
            user_attrs={"trial": trial.number, "hyperparameters": dict(trial.hyperparameters)},
        )
        if complete:
            made.set_constraint("ending", 0.0)  # as every complete trial of the record has it
        made.number = len(inside)  # as it is once it was kept
        inside.append(made)
    return EarlierPoints(tuple(inside), tuple(outside))


def keep(storage: BaseStorage, study: str, trials: EarlierTrials) -> None:
    """Make a study's earlier trials durable, in place of what a kill left of an earlier attempt."""
    name = _name(study)
    if name in {summary.study_name for summary in optuna.get_all_study_summaries(storage)}:
        optuna.delete_study(study_name=name, storage=storage)
    made = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    for trial in trials:
        storage.create_new_trial(made._study_id, template_trial=trial)


def kept(storage: BaseStorage, study: str) -> EarlierTrials:
    """The trials that `keep` made durable, in their order, and exactly as they were."""
    trials = optuna.load_study(study_name=_name(study), storage=storage).get_trials(deepcopy=False)
    for trial in trials:
        trial.params = dict(sorted(trial.params.items()))  # a database may give its rows in any order
    return tuple(trials)


def _name(study: str) -> str:
    return f"{study}.warm_start"
