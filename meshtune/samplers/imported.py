"""A sampler of the user's own, by `sampler: {import: .., options: ..}`.

An Optuna `BaseSampler`, or a function that returns one, is built afresh for each proposal, as Optuna's own samplers
here are: what it remembers must stand in the study, not in itself. Where it takes a `seed` it is given one that follows
from the study's seed and the trial's number, so that a resumed study continues as an uninterrupted one would; without
it, its own chance decides. A class of `meshtune.samplers.interface.Sampler` is built once and keeps its own blocks.
What it raises while it proposes is its author's to see, and passes as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from meshtune.errors import Fault, InputError, nearest
from meshtune.samplers.allowed import Allows
from meshtune.samplers.interface import Sampler
from meshtune.samplers.optuna_samplers import RebuiltSampler, quiet
from meshtune.system.imported import imported

KEY, OPTIONS = "sampler.import", "sampler.options"
SEAM = ("search_space", "x0", "block_size", "seed")  # what a class of the seam is given beside its options
S = TypeVar("S", bound=BaseSampler)
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def build(
    name: str,
    options: Mapping[str, Any],
    search_space: Mapping[str, BaseDistribution],
    *,
    x0: Mapping[str, Any] | None,
    block_size: int,
    seed: int,
    allows: Allows | None = None,
) -> Sampler:
    """The sampler that `name` names; `allows` as in `RebuiltSampler`.

    Raises InputError where it is none, refuses its options, or keeps its own blocks and cannot be told what is allowed.
    """
    made = imported(name, KEY)
    if isinstance(made, type) and issubclass(made, Sampler):
        if allows is not None:
            what = f"`{name}` keeps its own blocks, so no point can be kept out of them before it is proposed"
            raise InputError(Fault(f"{what}: leave out the constraints that are known before training", key=KEY))
        given = {"x0": x0, "block_size": block_size, "seed": seed}
        _check_options(name, made, options, SEAM)
        make = cast("Callable[..., Sampler]", made)
        return _made(name, lambda: make(search_space, **given, **options))
    if not callable(made) or (isinstance(made, type) and not issubclass(made, BaseSampler)):
        what = f"`{name}` is no sampler: a class that inherits from optuna.samplers.BaseSampler is needed"
        raise InputError(Fault(what + ", or a function that returns one", key=KEY))
    seeded = _check_options(name, made, options, ("seed",))

    def propose_with(seed: int, number: int) -> BaseSampler:
        found: BaseSampler = made(**({"seed": seed} if seeded else {}), **options)
        return found

    first: object = _made(name, lambda: quiet(propose_with)(0, 0))
    if not isinstance(first, BaseSampler):
        raise InputError(Fault(f"`{name}` returned {first!r}, which is no optuna.samplers.BaseSampler", key=KEY))
    if getattr(first, "_constraints_func", None) is not None:
        what = f"`{name}` has a `constraints_func`, which is never called here: leave it out, and use `constraints`"
        raise InputError(Fault(what, key=KEY))
    return RebuiltSampler(quiet(propose_with), search_space, seed=seed, block_size=block_size, allows=allows)


def _check_options(name: str, made: Callable[..., Any], options: Mapping[str, Any], ours: tuple[str, ...]) -> bool:
    """Whether it takes what we give. Raises InputError with every option that it does not know or that is ours."""
    parameters = inspect.signature(made).parameters
    known = [word for word, parameter in parameters.items() if parameter.kind not in _VARIABLE and word not in ours]
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    faults = []
    for option in options:
        if option in ours:
            faults.append(Fault(f"`{option}` is given by meshtune: remove it", key=f"{OPTIONS}.{option}"))
        elif option not in known and not anything:
            words = f"it takes {', '.join(known)}" if known else "it takes none"
            faults.append(Fault(f"unknown to `{name}`: {words}.{nearest(option, known)}", key=f"{OPTIONS}.{option}"))
    if faults:
        raise InputError(faults)
    return anything or "seed" in parameters


def _made(name: str, make: Callable[[], S]) -> S:
    try:
        return make()
    except Exception as error:
        what = f"`{name}` cannot be built with them ({type(error).__name__}: {error})"
        raise InputError(Fault(what, key=OPTIONS)) from error
