"""How a record scores trials, by objectives and constraints: the values that samplers get, ranks, Pareto sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meshtune.errors import MeshtuneError
from meshtune.record.trials import RecordedTrial, quantities_of
from meshtune.space.goals import LOSS, Goals, GoalValues, Objective, Quantities, goal_values
from meshtune.trial import Ending, Outcome

NO_VALUE_YET = 1e6  # the value of an infeasible trial where nothing has completed yet
ROUNDING = 1e-5  # of a loss: what float32 makes of the same weights in other passes is below it


def references(notes: Mapping[str, Any], baseline: RecordedTrial | None) -> dict[str, Quantities]:
    """The quantities of the untuned model and of the baseline, as far as they are measured; `notes`: the record's."""
    untuned, outside = notes.get("untuned"), notes.get("baseline")
    found: dict[str, Quantities] = {}
    if untuned is not None:
        found["untuned"] = {**untuned.get("quantities", {}), LOSS: untuned["loss"]}
    if baseline is not None:
        found["baseline"] = baseline.quantities
    elif outside is not None:
        found["baseline"] = {**outside.get("extra", {}), LOSS: outside["loss"]}
    return found


def worse_than_untuned(notes: Mapping[str, Any], trial: RecordedTrial) -> bool:
    """Whether a complete trial's loss is above the untuned model's by more than rounding: its training did harm."""
    untuned = (notes.get("untuned") or {}).get("loss")
    if untuned is None or not math.isfinite(trial.loss) or math.isclose(trial.loss, untuned, rel_tol=ROUNDING):
        return False
    return bool(trial.loss > untuned)


def awaits(baseline: RecordedTrial | None, guidance: Goals) -> bool:
    """Whether nothing can be scored yet, since a constraint compares with the baseline, which has not ended.

    Raises MeshtuneError where the baseline ended without a value.
    """
    if baseline is None or not guidance.refers_to("baseline"):
        return False
    if baseline.final is not None and not baseline.quantities:
        ending = baseline.final.ending
        raise MeshtuneError(
            f"the constraints compare with the baseline, and it ended as {ending}: {baseline.final.message}."
            f" {ending.advice} Choose another baseline, or compare with a number, in another study (`--folder`)"
        )
    return baseline.final is None


def scored_outcome(
    trial: RecordedTrial,
    outcome: Outcome,
    guidance: Goals,
    complete: Sequence[RecordedTrial],
    known: Mapping[str, Quantities],
) -> GoalValues:
    """The values and violations of an outcome; none where it has no value.

    Of an infeasible ending it is the worst so far, of what it does not have itself: finite, it misleads no model.

    Args:
        complete: the trials so far that are. known: the references' quantities.

    Raises MeshtuneError where a quantity that guides the search was not measured.
    """
    if outcome.ending in (Ending.CRASHED, Ending.STOPPED_EARLY):
        return GoalValues(())
    if outcome.ending is not Ending.COMPLETE:
        untuned = known.get("untuned", {})
        return GoalValues(
            tuple(outcome.extra.get(o.quantity, _worst(o, complete, untuned)) for o in guidance.objectives)
        )
    quantities = quantities_of(outcome)
    if trial.origin == "baseline":
        known = {**known, "baseline": quantities}
    try:
        return goal_values(guidance, quantities, known)
    except KeyError as error:
        raise MeshtuneError(f"trial {trial.number} has no value of {error}, which guides the search") from error


def ranked(complete: Sequence[RecordedTrial], guidance: Goals) -> list[RecordedTrial]:
    """Complete trials, the best first; those that violate a constraint last, the least violation first."""
    leading = guidance.leading
    sign = -1.0 if leading.maximize else 1.0

    def key(trial: RecordedTrial) -> tuple[float, float, int]:
        return trial.violation, sign * trial.quantities.get(leading.quantity, math.inf), trial.number

    return sorted(complete, key=key)


def _worst(objective: Objective, complete: Sequence[RecordedTrial], untuned: Quantities) -> float:
    """The worst value so far of an objective, the untuned model's among them."""
    sign = -1.0 if objective.maximize else 1.0
    values = [
        quantities[objective.quantity] for trial in complete if objective.quantity in (quantities := trial.quantities)
    ]
    values += [untuned[objective.quantity]] if objective.quantity in untuned else []
    return max(values, key=lambda value: sign * value, default=sign * NO_VALUE_YET)
