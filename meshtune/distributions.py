"""A space as Optuna distributions."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from meshtune.space import Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space as Optuna distributions by name."""
    made: dict[str, BaseDistribution] = {}
    for parameter in space.parameters:
        match parameter.kind:
            case "int":
                made[parameter.name] = IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
            case "float":
                made[parameter.name] = FloatDistribution(parameter.low, parameter.high, log=parameter.log)
            case "categorical":
                made[parameter.name] = CategoricalDistribution(parameter.choices)
    return made
