"""What is believed of an objective: two Gaussian processes over the same values, and one for each constraint.

`steady` sees values that are compressed above their median, so that a few very bad points do not drown the good ones;
`raw` sees them as they are. A failed trial counts as the worst success. A fit goes on from an earlier one, which is
part of the record, so that what is believed follows from the record alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from meshtune.samplers.gp.model import Process, few, fitted
from meshtune.samplers.gp.observations import Told
from meshtune.samplers.gp.space import Array, Cube

View = Literal["steady", "raw"]
EVERY = 30  # parameters are fitted anew at each new value; from 60 values on at every second, from 90 on at every third
MOST_KNOWN = 400  # values that a belief rests on; of more: half of it the lowest, half an even choice of the rest


@dataclass(frozen=True)
class Fit:
    """Parameters of a process (see `gp_model.fitted`), and how many values they were fitted to.

    `logged`: the wide variables that are seen on a logarithmic scale.
    """

    parameters: tuple[float, ...]
    logged: tuple[int, ...]
    values: int

    def to_json(self) -> list[Any]:
        """As `from_json` reads it."""
        return [list(self.parameters), list(self.logged), self.values]

    @classmethod
    def from_json(cls, given: Any) -> Fit:
        """Exactly what was written."""
        parameters, logged, values = given
        return cls(tuple(parameters), tuple(logged), values)


Fits = dict[str, Fit]


@dataclass(frozen=True)
class Belief:
    """A process in the unit of its values.

    Attributes:
        shift, scale: of the values, which are standardised inside.
    """

    cube: Cube
    process: Process
    logged: tuple[int, ...]
    shift: float
    scale: float

    def __call__(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free value."""
        mean, deviation = self.process.predict(self.cube.features(rows, self.logged))
        return self.shift + self.scale * mean, self.scale * deviation

    @property
    def noise(self) -> float:
        """Standard deviation of one value's noise."""
        return self.scale * self.process.noise


def compressed(values: Array) -> Array:
    """Values above the median drawn towards it; those below stay as they are."""
    median = float(np.median(values))
    unit = median - float(values.min())
    if unit <= 0:
        return values
    above = np.maximum(values - median, 0.0)
    return np.where(above > 0, median + unit * np.log1p(above / unit), values)


def objective(cube: Cube, told: Told, view: View, earlier: Mapping[str, Fit], fits: Fits) -> Belief:
    """What is believed of the objective; `told` has at least one success. Writes a new fit to `fits`."""
    success = np.isfinite(told.objectives)
    values = np.where(success, told.objectives, told.objectives[success].max())
    values = compressed(values) if view == "steady" else values
    return _belief(cube, told.rows, values, told.pending, view, earlier, fits)


def constraint(cube: Cube, told: Told, name: str, earlier: Mapping[str, Fit], fits: Fits) -> Belief:
    """What is believed of a constraint."""
    values = told.constraints[name]
    known = np.isfinite(values)
    values = np.sign(values[known]) * compressed(np.abs(values[known]))
    return _belief(cube, told.rows[known], values, told.pending, f"constraint {name}", earlier, fits)


def _belief(
    cube: Cube, rows: Array, values: Array, pending: Array, name: str, earlier: Mapping[str, Fit], fits: Fits
) -> Belief:
    shift, scale = float(values.mean()), float(values.std()) or 1.0
    standard = (values - shift) / scale
    fit = earlier.get(name)
    known = len(values)
    if fit is None or known - fit.values >= max(1, min(3, known // EVERY)):
        fit = fits[name] = _refitted(cube, rows, standard, fit)
    kept = few(standard, MOST_KNOWN)
    process = Process(
        np.array(fit.parameters, dtype=np.float64),
        cube.columns,
        cube.features(rows[kept], fit.logged),
        standard[kept],
        cube.features(pending, fit.logged),
    )
    return Belief(cube, process, fit.logged, shift, scale)


def _refitted(cube: Cube, rows: Array, values: Array, earlier: Fit | None) -> Fit:
    """Fitted on; wide variables change to their other scale where that is likelier, one a time once there is a fit."""
    logged = set(earlier.logged) if earlier else set()
    start = np.array(earlier.parameters, dtype=np.float64) if earlier else None
    parameters, cost = fitted(cube.features(rows, sorted(logged)), cube.columns, values, start)
    for variable in cube.wide if earlier is None else cube.wide[len(values) % max(len(cube.wide), 1) :][:1]:
        other = logged ^ {variable}
        found, its_cost = fitted(cube.features(rows, sorted(other)), cube.columns, values, start)
        if its_cost < cost:
            logged, parameters, cost = other, found, its_cost
    return Fit(tuple(parameters.tolist()), tuple(sorted(logged)), len(values))
