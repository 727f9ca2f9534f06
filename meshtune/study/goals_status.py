"""What a status says of objectives and constraints: fields for `meshtune.study.status`, from a record alone."""

from __future__ import annotations

from typing import Any

from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.space.goals import LOSS, Quantities
from meshtune.trial import Ending


def guided_facts(record: Record) -> dict[str, Any]:
    """Fields of a status.

    objectives: `{quantity, maximize}` each. constraints: `{text, quantity, known, limit, kept}` each: whether it is
        known before training, its limit as a number (None: the reference is not measured yet), and how many complete
        trials keep it. quantities: names of what is shown beside the loss. pareto: numbers of the trials on the Pareto
        set; none with one objective.
    """
    guidance, references, complete = record.guidance, record.references, record.complete
    return {
        "objectives": [{"quantity": one.quantity, "maximize": one.maximize} for one in guidance.objectives],
        "constraints": [
            {
                "text": one.text,
                "quantity": one.quantity,
                "known": one.known,
                "limit": one.limit(references),
                "kept": sum(trial.violations.get(one.text, 0.0) <= 0 for trial in complete),
            }
            for one in guidance.constraints
        ],
        "quantities": list(names(record)),
        "pareto": [trial.number for trial in record.pareto] if guidance.several else [],
    }


def names(record: Record) -> tuple[str, ...]:
    """The quantities that are shown: those that guide the search, and what is measured beside them."""
    measured = (record.notes.get("fixed", {}).get("guides") or {}).get("quantities", ())
    return tuple(dict.fromkeys([*record.guidance.quantities, *measured]))


def shown(record: Record, quantities: Quantities) -> dict[str, float]:
    """Those of some model."""
    return {name: quantities[name] for name in names(record) if name in quantities and name != LOSS}


def of_trial(record: Record, trial: RecordedTrial) -> dict[str, Any]:
    """Fields of a trial: `quantities`, `violations` by constraint, and whether it is `feasible` (None: no value)."""
    complete = trial.final is not None and trial.final.ending is Ending.COMPLETE
    return {
        "quantities": shown(record, trial.quantities),
        "violations": dict(trial.violations),
        "feasible": not trial.violation if complete else None,
    }
