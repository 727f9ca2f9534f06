"""A proposal and a tell as rows of Optuna's tables, each in one transaction.

Optuna writes a trial's fields one by one, each in a transaction of its own that first reads the trial. What is written
here is what it would have written: anything of Optuna's reads it. A transaction is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.orm import Session


class NumberTaken(Exception):
    """A trial of that number is there already."""


def write_proposal(engine: sqlalchemy.Engine, study_id: int, number: int, template: FrozenTrial) -> int:
    """Make a running trial under the number that its record gives it; its id. Raises NumberTaken."""
    with Session(engine) as session, session.begin():
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # whoever else makes a trial waits
        trial = models.TrialModel(
            study_id=study_id, number=number, state=template.state, datetime_start=template.datetime_start
        )
        session.add(trial)
        session.flush()
        if trial.count_past_trials(session) != number:
            raise NumberTaken
        trial_id = int(trial.trial_id)
        params = [
            {
                "param_name": name,
                "param_value": template.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(template.distributions[name]),
            }
            for name, value in template.params.items()
        ]
        _insert(session, models.TrialParamModel, trial_id, params)
        _insert(session, models.TrialUserAttributeModel, trial_id, _attributes(template.user_attrs))
        _insert(session, models.TrialSystemAttributeModel, trial_id, _attributes(template.system_attrs))
    return trial_id


def write_tell(engine: sqlalchemy.Engine, trial_id: int, ended: FrozenTrial) -> None:
    """Give a running trial its end: attributes, intermediate values, state and values.

    Raises UpdateFinishedTrialError where it has ended already.
    """
    reached = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    stored = models.TrialValueModel.value_to_stored_repr
    with Session(engine) as session, session.begin():
        trial = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
        if trial.state.is_finished():
            raise UpdateFinishedTrialError(f"trial {trial.number} has ended already")
        trial.state, trial.datetime_complete = ended.state, datetime.now()
        session.flush()
        _insert(session, models.TrialUserAttributeModel, trial_id, _attributes(ended.user_attrs))
        _insert(session, models.TrialSystemAttributeModel, trial_id, _attributes(ended.system_attrs))
        steps = [
            {"step": step, **dict(zip(("intermediate_value", "intermediate_value_type"), reached(loss), strict=True))}
            for step, loss in ended.intermediate_values.items()
        ]
        _insert(session, models.TrialIntermediateValueModel, trial_id, steps)
        values = [
            {"objective": objective, **dict(zip(("value", "value_type"), stored(value), strict=True))}
            for objective, value in enumerate(ended.values or ())
        ]
        _insert(session, models.TrialValueModel, trial_id, values)


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _insert(session: Session, model: Any, trial_id: int, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.connection().execute(model.__table__.insert(), [{"trial_id": trial_id, **row} for row in rows])
