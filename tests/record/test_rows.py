"""What is written of a trial in one transaction is what Optuna writes field by field."""

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from meshtune.record.rows import NumberTaken, write_proposal, write_tell
from meshtune.record.storage import open_storage

SPACE: dict[str, Any] = {
    "rate": FloatDistribution(1e-6, 1e-2, log=True),
    "rank": IntDistribution(1, 64),
    "kind": CategoricalDistribution(("a", "b")),
}
FIELDS = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs", "intermediate_values")


def proposal() -> FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING,
        params={"rate": 0.1 + 0.2 - 0.299, "rank": 8, "kind": "b"},
        distributions=SPACE,
        user_attrs={"proposal": {"seed": 0, "thresholds": [[3, None]]}},
        system_attrs={"place": [1, 2]},
    )


ENDS = {
    "complete": create_trial(value=0.1 + 0.2, constraints={"ending": 0.0, "size < 3": 1.5}, user_attrs={"outcome": {}}),
    "several": create_trial(values=[1.0, math.inf], intermediate_values={5: 2.0, 10: math.nan, 20: -math.inf}),
    "stopped": create_trial(state=TrialState.PRUNED, intermediate_values={7: 1.25}, constraints={"ending": 0.0}),
    "crashed": create_trial(state=TrialState.FAIL, user_attrs={"outcome": {"message": "é\n"}}),
}


@pytest.mark.parametrize("which", ENDS)
def test_a_trial_is_as_optuna_writes_it(tmp_path: Path, which: str) -> None:
    ended, storage = ENDS[which], open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    directions = ["minimize"] * max(1, len(ended.values or ()))
    mine, other = (optuna.create_study(study_name=name, storage=storage, directions=directions) for name in "ab")
    for number in range(2):
        trial_id = write_proposal(storage.engine, mine._study_id, number, proposal())
    write_tell(storage.engine, trial_id, ended)
    with pytest.raises(UpdateFinishedTrialError):
        write_tell(storage.engine, trial_id, ended)

    for _ in range(2):
        trial_id = storage.create_new_trial(other._study_id, proposal())
    for key, value in ended.user_attrs.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for text, value in ended.constraints.items():
        optuna.Trial(other, trial_id).set_constraint(text, value)
    for step, loss in ended.intermediate_values.items():
        storage.set_trial_intermediate_value(trial_id, step, loss)
    storage.set_trial_state_values(trial_id, ended.state, ended.values)

    for written, expected in zip(mine.trials, other.trials, strict=True):
        assert [repr(getattr(written, name)) for name in FIELDS] == [repr(getattr(expected, name)) for name in FIELDS]
        for moment in ("datetime_start", "datetime_complete"):
            at, reference = getattr(written, moment), getattr(expected, moment)
            assert (at is None) == (reference is None)
            assert at is None or abs((at - reference).total_seconds()) < 600  # one time zone


def test_a_number_is_given_once(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage)
    write_proposal(storage.engine, study._study_id, 0, proposal())
    for number in (0, 2):
        with pytest.raises(NumberTaken):
            write_proposal(storage.engine, study._study_id, number, proposal())
    assert [trial.number for trial in study.trials] == [0]
