"""What MADS is told of a trial: its objectives, minimized, and its constraints; or that it failed.

Failed are trials in the states FAIL and, unless their values are to be believed, PRUNED, those that lack a constraint
which others have, and those that violate a hidden constraint, which only says that there is no honest value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.record.scoring import pareto

Outputs = tuple[float, ...]  # objectives, then constraints
Pruned = Literal["failed", "value"]
LARGE = 1e20  # NOMAD's infinity; told of a start that failed, since NOMAD ends at once where its only start has failed


@dataclass(frozen=True)
class Teller:
    """How trials are read.

    Attributes:
        directions: the study's. constraints: names, in the order in which they are told. hidden: names whose violation
            means that the trial failed. pruned: whether a pruned trial's value is told as if it were complete.
    """

    directions: tuple[StudyDirection, ...]
    constraints: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    pruned: Pruned = "failed"

    def outputs(self, trial: FrozenTrial) -> Outputs | None:
        """Objectives and constraints of a finished trial, finite; None where it failed."""
        constraints = trial.constraints
        told = trial.state is TrialState.COMPLETE or (trial.state is TrialState.PRUNED and self.pruned == "value")
        if not told or trial.values is None or any(constraints.get(name, 0.0) > 0 for name in self.hidden):
            return None
        if len(trial.values) != len(self.directions) or not all(name in constraints for name in self.constraints):
            return None
        signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in self.directions]
        objectives = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        outputs = (*objectives, *(constraints[name] for name in self.constraints))
        if any(output != output for output in outputs):
            return None
        return tuple(min(max(output, -LARGE), LARGE) for output in outputs)

    def failed_start(self) -> Outputs:
        """What is told instead of a failure, of the start alone: as bad as can be, and feasible."""
        return (LARGE,) * len(self.directions) + (0.0,) * len(self.constraints)

    def violation(self, outputs: Outputs) -> float:
        """Sum of the constraints' violations; 0 where the point is feasible."""
        return sum(max(constraint, 0.0) for constraint in outputs[len(self.directions) :])

    def leader(self, known: Sequence[Outputs]) -> int | None:
        """Index of the best, by violation, then by objective; of several objectives one amid the Pareto set."""
        if not known:
            return None
        least = min(map(self.violation, known))
        rest = [index for index, outputs in enumerate(known) if self.violation(outputs) == least]
        n = len(self.directions)
        if n == 1:
            return min(rest, key=lambda index: known[index][0])
        front = [rest[i] for i in np.flatnonzero(pareto(-np.array([known[index][:n] for index in rest])))]
        lows = [min(known[index][k] for index in front) for k in range(n)]
        spans = [max(known[index][k] for index in front) - low or 1.0 for k, low in enumerate(lows)]
        return min(front, key=lambda i: sum((known[i][k] - lows[k]) / spans[k] for k in range(n)))


def constraint_names(trials: Iterable[FrozenTrial], hidden: Collection[str]) -> tuple[str, ...]:
    """The names that complete trials have constraints by, hidden ones left out."""
    complete = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    return tuple(sorted({name for trial in complete for name in trial.constraints} - set(hidden)))
