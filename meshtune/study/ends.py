"""What trials that were stopped would have ended with, and how sure that is: for a sampler that can use both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from meshtune.config.budget import FEWEST_FINISHED
from meshtune.record.distributions import distributions
from meshtune.samplers.encoding import Encoding
from meshtune.samplers.gp.space import Cube
from meshtune.samplers.interface import End
from meshtune.space.space import Space
from meshtune.stopping.decisions import EarlyStopping, in_a_row, schedule
from meshtune.stopping.freeze_thaw import Measured

Known = tuple[FrozenTrial, tuple[Measured, ...]]  # a trial and its curve


class Ends:
    """Of the pruned trials of a study, by number: what the model of points and curves says of their ends.

    It sees the curves of the trials that it is given and nothing else, so that the answer follows from the record.
    A block is proposed from the same trials, so the last answer is kept.
    """

    def __init__(self, early: EarlyStopping, space: Space):
        self._early, self._space = early, space
        self._cube = Cube(Encoding(distributions(space)))
        self._seen: list[tuple[int, tuple[Measured, ...]]] = []
        self._found: Mapping[int, End] = {}

    def __call__(self, trials: Sequence[FrozenTrial]) -> Mapping[int, End]:
        """None of a schedule of which fewer than three trials have reached their end."""
        groups: dict[tuple[Any, ...], list[Known]] = {}
        for trial in trials:
            if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not self._cube.encoding.has(trial.params):
                continue
            hyperparameters = self._space.decode(trial.params)
            if curve := self._curve(trial, hyperparameters):
                groups.setdefault(schedule(hyperparameters), []).append((trial, curve))
        seen = [(trial.number, curve) for group in groups.values() for trial, curve in group]
        if seen != self._seen:
            found = dict[int, End]()
            for alike, group in groups.items():
                found |= self._of_one_schedule(alike, group)
            self._seen, self._found = seen, found
        return self._found

    def _curve(self, trial: FrozenTrial, hyperparameters: Mapping[str, object]) -> tuple[Measured, ...]:
        """Losses by shares; empty where there is none, one is infinite, or the trial is not feasible."""
        losses = in_a_row(trial.intermediate_values, self._early.rungs(hyperparameters))
        curve = list(zip(self._early.shares(hyperparameters), losses, strict=False))
        if not curve or trial.constraints.get("ending", 0.0) > 0:
            return ()
        if trial.state is TrialState.COMPLETE:
            curve.append((1.0, trial.values[0]))
        return tuple(curve) if all(math.isfinite(loss) for _, loss in curve) else ()

    def _of_one_schedule(self, alike: tuple[Any, ...], known: Sequence[Known]) -> dict[int, End]:
        stopped = [trial.state is TrialState.PRUNED for trial, _ in known]
        if not any(stopped) or len(known) - sum(stopped) < FEWEST_FINISHED:
            return {}
        features = self._cube.features(self._cube.rows([trial.params for trial, _ in known]))
        finals = self._early.fitted(alike, features, self._cube.columns, [curve for _, curve in known]).final()
        ends = zip(known, finals.at(0.5).tolist(), finals.spread.tolist(), stopped, strict=True)
        return {trial.number: (loss, spread) for (trial, _), loss, spread, unfinished in ends if unfinished}
