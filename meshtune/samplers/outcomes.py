"""What a sampler learns of trials: objectives, constraints, or that they failed; here and earlier.

Failed are trials in the states FAIL and, unless their values are to be believed, PRUNED, those that lack a constraint
which others have, and those that violate a hidden constraint, which only says that there is no honest value.

Values of an earlier study's trials stand `as_is` (the paper's second round), or are `shifted`, being of another
fidelity: the best few are evaluated again first; the median difference is added to the others, and none of these may
look better than the best that was evaluated here.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.encoding import Encoding, Point
from meshtune.space.pareto import pareto

Outputs = tuple[float, ...]  # objectives, then constraints
Pruned = Literal["failed", "value"]
Values = Literal["as_is", "shifted"]
LARGE = (
    1e20  # NOMAD's infinity; given for a start that failed, since NOMAD ends at once where its only start has failed
)
AGAIN = 4  # points that `shifted` evaluates again


@dataclass(frozen=True)
class TrialReader:
    """How trials are read.

    Attributes:
        directions: the study's. constraints: names, in the order of the outputs. hidden: names whose violation means
            that the trial failed. pruned: whether a pruned trial's value counts as if it were complete.
    """

    directions: tuple[StudyDirection, ...]
    constraints: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    pruned: Pruned = "failed"

    def outputs(self, trial: FrozenTrial) -> Outputs | None:
        """Objectives and constraints of a finished trial, finite; None where it failed."""
        constraints = trial.constraints
        counts = trial.state is TrialState.COMPLETE or (trial.state is TrialState.PRUNED and self.pruned == "value")
        if not counts or trial.values is None or any(constraints.get(name, 0.0) > 0 for name in self.hidden):
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
        """What NOMAD gets instead of a failure, of the start alone: as bad as can be, and feasible."""
        return (LARGE,) * len(self.directions) + (0.0,) * len(self.constraints)

    def violation(self, outputs: Outputs) -> float:
        """Sum of the constraints' violations; 0 where the point is feasible."""
        return sum(max(constraint, 0.0) for constraint in outputs[len(self.directions) :])

    def leader(self, outputs: Sequence[Outputs]) -> int | None:
        """Index of the best, by violation, then by objective; of several objectives one amid the Pareto set."""
        if not outputs:
            return None
        least = min(map(self.violation, outputs))
        rest = [index for index, each in enumerate(outputs) if self.violation(each) == least]
        n = len(self.directions)
        if n == 1:
            return min(rest, key=lambda index: outputs[index][0])
        front = [rest[i] for i in np.flatnonzero(pareto(-np.array([outputs[index][:n] for index in rest])))]
        lows = [min(outputs[index][k] for index in front) for k in range(n)]
        spans = [max(outputs[index][k] for index in front) - low or 1.0 for k, low in enumerate(lows)]
        return min(front, key=lambda i: sum((outputs[i][k] - lows[k]) / spans[k] for k in range(n)))


def constraint_names(trials: Iterable[FrozenTrial], hidden: Collection[str]) -> tuple[str, ...]:
    """The names that complete trials have constraints by, hidden ones left out."""
    complete = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    return tuple(sorted({name for trial in complete for name in trial.constraints} - set(hidden)))


@dataclass(frozen=True)
class WarmStart:
    """Finished trials of an earlier study, and what their values mean here."""

    trials: tuple[FrozenTrial, ...]
    values: Values
    directions: tuple[StudyDirection, ...] | None = None  # of their study, where that was given

    @classmethod
    def of(cls, given: Study | Sequence[FrozenTrial], values: Values) -> WarmStart | None:
        """Of a study or its trials; None where none has finished."""
        trials = given.get_trials(deepcopy=False) if isinstance(given, Study) else given
        finished = tuple(trial for trial in trials if trial.state.is_finished())
        directions = tuple(given.directions) if isinstance(given, Study) else None
        return cls(finished, values, directions) if finished else None

    @property
    def digest(self) -> str:
        """Of everything that proposals follow from."""
        content = [(t.params, t.values, sorted(t.constraints.items()), t.state.name) for t in self.trials]
        return hashlib.sha256(repr((self.values, content)).encode()).hexdigest()[:16]

    def by_point(self, encoding: Encoding, reader: TrialReader) -> dict[Point, tuple[FrozenTrial, Outputs | None]]:
        """By point the trial and its outcome; the first trial of each point, or the first that has a value."""
        known: dict[Point, tuple[FrozenTrial, Outputs | None]] = {}
        for trial in self.trials:
            if encoding.has(trial.params):
                key, outputs = encoding.key(trial.params), reader.outputs(trial)
                if key not in known or (known[key][1] is None and outputs is not None):
                    known[key] = (trial, outputs)
        return known

    def again(self, encoding: Encoding, reader: TrialReader) -> list[FrozenTrial]:
        """The best few, best first; none where the values stand as they are."""
        if self.values == "as_is":
            return []
        rest = [(trial, outputs) for trial, outputs in self.by_point(encoding, reader).values() if outputs is not None]
        best: list[FrozenTrial] = []
        while rest and len(best) < AGAIN:
            index = reader.leader([outputs for _, outputs in rest])
            best.append(rest.pop(index or 0)[0])
        return best

    def outputs(
        self, encoding: Encoding, reader: TrialReader, here: Mapping[Point, Outputs | None]
    ) -> dict[Point, Outputs | None]:
        """By point its outputs for NOMAD; `here` has what was evaluated in this study, whose points are left out."""
        known = self.by_point(encoding, reader)
        there = {key: outputs for key, (_, outputs) in known.items()}
        pairs = [(old, new) for key, old in there.items() if old and (new := here.get(key))]
        rest = {key: outputs for key, outputs in there.items() if key not in here}
        if self.values == "as_is" or not pairs:
            return rest
        shift = statistics.median(new[0] - old[0] for old, new in pairs)
        best = reader.leader([new for _, new in pairs])
        floor = math.nextafter(pairs[best or 0][1][0], math.inf)
        return {key: outputs and (max(outputs[0] + shift, floor), *outputs[1:]) for key, outputs in rest.items()}
