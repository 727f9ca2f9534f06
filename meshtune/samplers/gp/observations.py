"""What a Gaussian process learns of a study: rows with values, rows that failed, and rows that are pending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from meshtune.samplers.gp.space import Array, Cube
from meshtune.samplers.interface import End, given_params, note_of
from meshtune.samplers.outcomes import LARGE, Outputs, TrialReader, WarmStart

NOTE = "batch_gp"  # Optuna's system attribute with what a trial was lent: `{"trial", "space", "point", "fits"}`
Pruned = Literal["failed", "value", "left_out"]
Key = tuple[float, ...]


@dataclass(frozen=True)
class Observations:
    """Coordinates and values, minimised.

    Attributes:
        rows: (n, variables), of finished trials and of the earlier study's. objectives: (n,), nan where it failed.
        deviations: (n,), of the objectives that are predicted; 0 for those that were measured.
        constraints: by name (n,), feasible up to 0. numbers: of the trials; -1 for the earlier study's.
        pending: (p, variables). visited: points that have a trial here, failed ones and pending ones among them.
    """

    rows: Array
    objectives: Array
    deviations: Array
    constraints: Mapping[str, Array]
    numbers: tuple[int, ...]
    pending: Array
    visited: frozenset[Key]

    @property
    def succeeded(self) -> bool:
        """Whether any value is known."""
        return bool(np.isfinite(self.objectives).any())

    @property
    def size(self) -> int:
        """Points with a value, without one and pending."""
        return len(self.rows) + len(self.pending)


def observed(
    trials: Sequence[FrozenTrial],
    cube: Cube,
    reader: TrialReader,
    *,
    space: str,
    but: int = -1,
    pruned: Pruned = "failed",
    warm: WarmStart | None = None,
    ends: Mapping[int, End] | None = None,
) -> Observations:
    """Read a study's trials, except number `but`. `space`: what notes call it. `ends`: by number what pruned trials
    would have ended with, in place of their values.

    A trial without value counts as failed, unless another one of the same point has a value. A pruned trial is left out
    where `pruned` says so, and where its value would count but it has none: it was hopeless, which is not the worst.
    """
    encoding = cube.encoding
    answers: list[tuple[Key, Array, Outputs | None, int]] = []
    pending: list[Array] = []
    placed = [(trial, row) for trial in trials if trial.number != but and (row := _row(trial, cube, space)) is not None]
    keys = cube.keys(_stacked([row for _, row in placed], cube))
    for (trial, row), key in zip(placed, keys, strict=True):
        if not trial.state.is_finished():
            pending.append(row)
            continue
        outputs = reader.outputs(trial)
        if outputs is not None and abs(outputs[0]) >= LARGE:
            outputs = None
        end = (ends or {}).get(trial.number)
        if end is not None and trial.state is TrialState.PRUNED and outputs is not None:
            outputs = (end[0], *outputs[1:])
        if outputs is not None or not _left_out(trial, pruned):
            answers.append((key, row, outputs, trial.number))
    if warm is not None:
        here = {encoding.key(encoding.decode(row.tolist())): outputs for _, row, outputs, _ in answers}
        earlier = warm.by_point(encoding, reader)
        for point, outputs in warm.outputs(encoding, reader, here).items():
            if outputs is None and _left_out(earlier[point][0], pruned):
                continue
            row = cube.rows([earlier[point][0].params])[0]
            answers.append((cube.keys(row[None])[0], row, outputs, -1))
    valued = {key for key, _, outputs, _ in answers if outputs is not None}
    answers = [answer for answer in answers if answer[2] is not None or answer[0] not in valued]
    width = 1 + len(reader.constraints)
    unsure = {number: deviation for number, (_, deviation) in (ends or {}).items()}
    table = np.array([outputs or (np.nan,) * width for _, _, outputs, _ in answers]).reshape(len(answers), width)
    return Observations(
        rows=_stacked([row for _, row, _, _ in answers], cube),
        objectives=table[:, 0],
        deviations=np.array([unsure.get(number, 0.0) for _, _, _, number in answers]),
        constraints={name: table[:, 1 + index] for index, name in enumerate(reader.constraints)},
        numbers=tuple(number for _, _, _, number in answers),
        pending=_stacked(pending, cube),
        visited=frozenset(keys),
    )


def _stacked(rows: Sequence[Array], cube: Cube) -> Array:
    return np.array(rows).reshape(len(rows), len(cube))


def _left_out(trial: FrozenTrial, pruned: Pruned) -> bool:
    """Whether a trial without outputs says nothing, rather than that it failed."""
    if trial.state is not TrialState.PRUNED:
        return False
    return pruned == "left_out" or (pruned == "value" and trial.values is None)


def _row(trial: FrozenTrial, cube: Cube, space: str) -> Array | None:
    """The coordinates of a trial; None where it has none in the space.

    An objective may end before it asks for all its parameters: the rest is then as it was proposed.
    """
    params = given_params(trial)
    if not cube.encoding.has(params):
        note = note_of(trial, NOTE, space)
        if "point" not in note:
            return None
        params = {**cube.encoding.decode(note["point"]), **params}
        if not cube.encoding.has(params):
            return None
    return cube.rows([params])[0, :]
