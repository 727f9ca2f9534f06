"""The sampler that a study.yaml names: ours, Optuna's, NNI's, or one of the user's own (`import: file.py:name`)."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from meshtune.config.sections import SamplerConfig
from meshtune.errors import Fault, InputError, MissingExtra, extra, nearest, need, refuse
from meshtune.samplers.allowed import Allows
from meshtune.samplers.gp.sampler import BatchGPSampler
from meshtune.samplers.grid import GridSampler
from meshtune.samplers.interface import BlockSampler, Ends, Knowledge, Sampler
from meshtune.samplers.mads.sampler import MadsSampler
from meshtune.samplers.nni.sampler import NniTPESampler
from meshtune.samplers.optuna_samplers import Build, ForgetfulNSGAII, NumberedQMC, NumericCmaEs, RebuiltSampler, quiet
from meshtune.samplers.outcomes import Pruned
from meshtune.space.samplers import SamplerName
from meshtune.system.imported import imported

KEY, OPTIONS = "sampler.import", "sampler.options"
GIVEN = ("search_space", "x0", "block_size", "seed")  # what a class of ours is given beside its options
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
GONE = ("fill", "least_fills")  # options of `mads` in version 0.1
S = TypeVar("S", bound=BaseSampler)


def build(
    config: SamplerConfig,
    search_space: Mapping[str, BaseDistribution],
    *,
    x0: Mapping[str, Any] | None,
    block_size: int,
    seed: int,
    new_segment: bool = False,
    warm_start: Sequence[FrozenTrial] = (),
    warm_start_values: Literal["as_is", "shifted"] = "as_is",
    known: Knowledge | None = None,
    pruned: Pruned = "failed",
    allows: Allows | None = None,
    ends: Ends | None = None,
) -> Sampler:
    """The sampler of the config over these distributions; where that is `asynchronous`, so is every one that can be.

    `warm_start`: finished trials over them that it knows from the start, which `mads`, `batch-gp`, `tpe` and `nni-tpe`
    can use; their values are as good as this study's (`as_is`), or those of another fidelity (`shifted`, not for the
    two TPEs). `known`: what is known before any trial, for `mads` and `batch-gp`. `allows`: says of a point, by the
    names of the distributions, whether it may be proposed. `pruned`: what `mads` takes a trial for that was stopped
    early; `batch-gp` leaves out what has no value, instead of taking it for failed. Others read intermediate values.
    `ends`: what trials that were stopped would have ended with, for `batch-gp`.

    Raises InputError on options that it does not know, MissingExtra where its library is not installed.
    """
    options = config.options
    if allows is not None:
        warm_start = [trial for trial in warm_start if allows(trial.params)]
    ours: dict[str, Any] = {"search_space": search_space, "block_size": block_size, "seed": seed}
    started = ours | {
        "x0": x0,
        "warm_start": warm_start or None,
        "warm_start_values": warm_start_values,
        "known": known,
        "hidden_constraints": ("ending",),
        "a_priori": allows,
    }

    def rebuilt(make: Build) -> Callable[[], Sampler]:
        def built() -> Sampler:
            quiet(make)(0, 0)
            return RebuiltSampler(quiet(make), **ours, earlier_trials=warm_start, allows=allows)

        return built

    lies = config.asynchronous and "constant_liar" not in options  # so that points keep away from pending ones
    liar: dict[str, Any] = {"constant_liar": True} if lies else {}
    makers: dict[str, Callable[[], Sampler]] = {
        "mads": lambda: MadsSampler(**started, pruned=pruned, new_segment=new_segment, **options),
        "batch-gp": lambda: BatchGPSampler(
            **started, pruned="value" if pruned == "value" else "left_out", ends=ends, **options
        ),
        "tpe": rebuilt(lambda s, _: TPESampler(seed=s, **liar, **options)),
        "nni-tpe": lambda: NniTPESampler(**ours, earlier_trials=warm_start, allows=allows, **options),
        "nsga2": rebuilt(lambda s, _: ForgetfulNSGAII(seed=s, **options)),
        "random": rebuilt(lambda s, _: RandomSampler(seed=s, **options)),
        "gp": rebuilt(lambda s, _: GPSampler(seed=s, **options)),
        "cma-es": rebuilt(lambda s, _: NumericCmaEs(seed=s, warn_independent_sampling=False, **options)),
        "qmc": rebuilt(lambda _, number: NumberedQMC(seed, number, **options)),
    }
    match config.name:
        case "import":
            made = _imported(config.imported or "", options, ours, x0=x0, allows=allows)
        case "grid":
            made = _grid(config, ours, allows)
        case "auto":
            raise InputError("the sampler `auto` stands for another one, which must be chosen before it is built")
        case name:
            made = _named(name, options, makers[name])
    if config.asynchronous and isinstance(made, BlockSampler | RebuiltSampler):
        made.asynchronous = True
    return made


def _named(name: SamplerName, options: Mapping[str, Any], make: Callable[[], Sampler]) -> Sampler:
    if name == "mads":
        _refuse_gone(options)
    _check_installed(name)
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise InputError(f"sampler.options of `{name}`: {error}") from error


def _check_installed(name: SamplerName) -> None:
    """Raise MissingExtra where the library of a sampler is not there."""
    if name == "mads" and importlib.util.find_spec("PyNomad") is None:
        raise MissingExtra(
            "the sampler `mads`",
            "PyNomadBBO",
            "pip install PyNomadBBO (it has wheels for Linux x86-64, macOS arm64 and Windows; elsewhere use"
            " `sampler: tpe`)",
        )
    if name == "gp":
        need("the sampler `gp`", "torch")
    if name == "cma-es" and importlib.util.find_spec("cmaes") is None:
        raise MissingExtra("the sampler `cma-es`", "cmaes", extra("cma-es"))


def _refuse_gone(options: Mapping[str, Any]) -> None:
    """Raise InputError where `mads` is given options of version 0.1."""
    if gone := [option for option in GONE if option in options]:
        words, are = " and ".join(f"`{option}`" for option in gone), "are" if len(gone) > 1 else "is"
        raise InputError(
            Fault(
                f"{words} of `mads` {are} gone: blocks that the Gaussian process filled found no better points"
                " (docs/decisions/2026-11-26-mads-fill.md). A study that began so can be read (status, report, export,"
                f" train), not continued. To go on from its trials, take {words} out, give another `folder`, and name"
                " the old one: `warm_start: FOLDER`",
                key="sampler.options",
            )
        )


def _grid(config: SamplerConfig, ours: Mapping[str, Any], allows: Allows | None) -> Sampler:
    if config.options:
        raise InputError(Fault("the sampler `grid` takes none: remove them", key="sampler.options"))
    try:
        return GridSampler(**ours, allows=allows)
    except ValueError as error:
        raise InputError(Fault(str(error), key="space")) from error


def _imported(
    name: str,
    options: Mapping[str, Any],
    ours: Mapping[str, Any],
    *,
    x0: Mapping[str, Any] | None,
    allows: Allows | None,
) -> Sampler:
    """The sampler of the user's own that `name` names; `ours`, `allows`: as `RebuiltSampler` is given them.

    An Optuna `BaseSampler`, or a function that returns one, is built afresh for each proposal, as Optuna's own samplers
    here are: what it remembers must stand in the study, not in itself. Where it takes a `seed` it is given one that
    follows from the study's seed and the trial's number, so that a resumed study continues as an uninterrupted one
    would; without it, its own chance decides. A class of `meshtune.samplers.interface.Sampler` is built once and keeps
    its own blocks. What it raises while it proposes is its author's to see, and passes as it is.

    Raises InputError where it is none, refuses its options, or keeps its own blocks, where no point can be kept out.
    """
    made = imported(name, KEY)
    if isinstance(made, type) and issubclass(made, Sampler):
        if allows is not None:
            what = f"`{name}` keeps its own blocks, so no point can be kept out of them before it is proposed"
            raise InputError(Fault(f"{what}: leave out the constraints that are known before training", key=KEY))
        _check_options(name, made, options, GIVEN)
        make = cast("Callable[..., Sampler]", made)
        rest = {word: value for word, value in ours.items() if word != "search_space"}
        return _made(name, lambda: make(ours["search_space"], x0=x0, **rest, **options))
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
    return RebuiltSampler(quiet(propose_with), **ours, allows=allows)


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
    refuse(faults)
    return anything or "seed" in parameters


def _made(name: str, make: Callable[[], S]) -> S:
    try:
        return make()
    except Exception as error:
        what = f"`{name}` cannot be built with them ({type(error).__name__}: {error})"
        raise InputError(Fault(what, key=OPTIONS)) from error
