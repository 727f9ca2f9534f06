"""The recommended trial of a record: the lowest loss by all evidence, where the best is the lowest noisy one."""

from __future__ import annotations

from collections.abc import Iterator

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.record.log import Record
from meshtune.samplers.recommend import Recommendation, recommend
from meshtune.space.goals import LOSS_ALONE
from meshtune.trial import Ending


def recommended(record: Record) -> Recommendation | None:
    """The complete trial with the lowest expected loss, whoever proposed it; None while fewer than five have ended.

    It keeps the constraints. None too where the loss is not the only objective: there is no one best. Promoted trials
    count with what they were trained to; those that stay stopped early are left out.
    """
    if record.guidance.objectives != LOSS_ALONE.objectives:
        return None
    trials = list(trials_of(record))
    return recommend(trials, trials[0].distributions, direction=StudyDirection.MINIMIZE) if trials else None


def trials_of(record: Record, *, in_search: bool = False) -> Iterator[FrozenTrial]:
    """Trials as they ended in the end, losses as they are, not as samplers were told; without those stopped early.

    `in_search`: as the search saw them end, and those stopped early with what was predicted, where that was.
    """
    for trial, frozen in zip(record.trials, record.mirror.get_trials(deepcopy=False), strict=True):
        final = trial.outcome if in_search else trial.final
        if final is None or (final.ending is Ending.STOPPED_EARLY and not (in_search and trial.value is not None)):
            continue
        value = trial.value if final.ending is Ending.STOPPED_EARLY else final.loss
        complete = final.ending in (Ending.COMPLETE, Ending.STOPPED_EARLY) and value is not None
        made = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            value=value if complete else None,
            params=frozen.params,
            distributions=frozen.distributions,
            constraints=dict(trial.violations) if complete else None,
        )
        made.number = trial.number
        yield made
