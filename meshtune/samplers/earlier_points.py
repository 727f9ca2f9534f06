"""Points of an earlier study that MADS knows from the start.

`as_is`: their values stand as they are (the paper's second round). `shifted`: they are of another fidelity. The best
few are evaluated again first; the median difference is added to the others, and none of these may look better than the
best that was evaluated here.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from meshtune.samplers.encoding import Encoding, Point
from meshtune.samplers.outcomes import Outputs, Teller

AGAIN = 4  # points that `shifted` evaluates again

Values = Literal["as_is", "shifted"]


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

    def known(self, encoding: Encoding, teller: Teller) -> dict[Point, tuple[FrozenTrial, Outputs | None]]:
        """By point what was told of it there; the first trial of each point, or the first that has a value."""
        known: dict[Point, tuple[FrozenTrial, Outputs | None]] = {}
        for trial in self.trials:
            if encoding.has(trial.params):
                key, outputs = encoding.key(trial.params), teller.outputs(trial)
                if key not in known or (known[key][1] is None and outputs is not None):
                    known[key] = (trial, outputs)
        return known

    def again(self, encoding: Encoding, teller: Teller) -> list[FrozenTrial]:
        """The best few, best first; none where the values stand as they are."""
        if self.values == "as_is":
            return []
        rest = [(trial, outputs) for trial, outputs in self.known(encoding, teller).values() if outputs is not None]
        best: list[FrozenTrial] = []
        while rest and len(best) < AGAIN:
            index = teller.leader([outputs for _, outputs in rest])
            best.append(rest.pop(index or 0)[0])
        return best

    def outputs(
        self, encoding: Encoding, teller: Teller, here: Mapping[Point, Outputs | None]
    ) -> dict[Point, Outputs | None]:
        """By point what NOMAD is told of it; `here` has what was evaluated in this study, whose points are left out."""
        known = self.known(encoding, teller)
        there = {key: outputs for key, (_, outputs) in known.items()}
        pairs = [(old, new) for key, old in there.items() if old and (new := here.get(key))]
        rest = {key: outputs for key, outputs in there.items() if key not in here}
        if self.values == "as_is" or not pairs:
            return rest
        shift = statistics.median(new[0] - old[0] for old, new in pairs)
        best = teller.leader([new for _, new in pairs])
        floor = math.nextafter(pairs[best or 0][1][0], math.inf)
        return {key: outputs and (max(outputs[0] + shift, floor), *outputs[1:]) for key, outputs in rest.items()}
