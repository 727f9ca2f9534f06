"""The samplers that a study.yaml may name, and what each can search. `meshtune.samplers.build` builds them."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

SamplerName = Literal[
    "auto", "mads", "batch-gp", "tpe", "nni-tpe", "nsga2", "gp", "cma-es", "grid", "random", "qmc", "import"
]
NAMES: tuple[SamplerName, ...] = get_args(SamplerName)


class Abilities(NamedTuple):
    """Of a sampler.

    Attributes:
        several: it searches a Pareto set, or looks at no value. constraints: it knows what a violated constraint is,
            or looks at no value. earlier: it can start from another study's trials. shifted: with values of another
            fidelity too.
    """

    several: bool = False
    constraints: bool = False
    earlier: bool = False
    shifted: bool = False


ABILITIES: dict[SamplerName, Abilities] = {
    "auto": Abilities(several=True, constraints=True, earlier=True, shifted=True),
    "mads": Abilities(several=True, constraints=True, earlier=True, shifted=True),
    "batch-gp": Abilities(constraints=True, earlier=True, shifted=True),
    "tpe": Abilities(several=True, constraints=True, earlier=True),
    "nni-tpe": Abilities(constraints=True, earlier=True),
    **dict.fromkeys(("nsga2", "gp", "grid", "random", "qmc"), Abilities(several=True, constraints=True)),
}


def that_can(ability: str) -> tuple[SamplerName, ...]:
    """Names of the samplers with an ability, in the order of `NAMES`."""
    return tuple(name for name in NAMES if getattr(ABILITIES.get(name, Abilities()), ability))
