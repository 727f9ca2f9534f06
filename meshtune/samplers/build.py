"""The sampler that a study.yaml names."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from meshtune.config.sections import SamplerConfig
from meshtune.errors import Fault, InputError, MissingExtra, extra, need
from meshtune.samplers import imported
from meshtune.samplers.allowed import Allows
from meshtune.samplers.gp.sampler import BatchGPSampler
from meshtune.samplers.grid import GridSampler
from meshtune.samplers.interface import Sampler
from meshtune.samplers.nni.sampler import NniTPESampler
from meshtune.samplers.optuna_samplers import Build, ForgetfulNSGAII, NumberedQMC, NumericCmaEs, RebuiltSampler, quiet
from meshtune.samplers.outcomes import Pruned

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
    pruned: Pruned = "failed",
    allows: Allows | None = None,
) -> Sampler:
    """The sampler of the config over these distributions.

    `warm_start`: finished trials over them that it knows from the start, which `mads`, `batch-gp`, `tpe` and `nni-tpe`
    can use; their values are as good as this study's (`as_is`), or those of another fidelity (`shifted`, not for the
    two TPEs). `allows`: says of a point, by the names of the distributions, whether it may be proposed.
    `pruned`: what `mads` takes a trial for that was stopped early; `batch-gp` leaves out what has no value, instead of
    taking it for failed. The others read intermediate values.

    Raises InputError on options that it does not know, MissingExtra where its library is not installed.
    """
    options = config.options
    if allows is not None:
        warm_start = [trial for trial in warm_start if allows(trial.params)]

    def rebuilt(make: Build) -> RebuiltSampler:
        _try(config, lambda: quiet(make)(0, 0))
        return RebuiltSampler(
            quiet(make), search_space, seed=seed, block_size=block_size, known=warm_start, allows=allows
        )

    match config.name:
        case "mads":
            return _mads(
                config,
                search_space,
                x0=x0,
                block_size=block_size,
                seed=seed,
                new_segment=new_segment,
                warm_start=warm_start,
                warm_start_values=warm_start_values,
                pruned=pruned,
                a_priori=allows,
            )
        case "batch-gp":
            return _try(
                config,
                lambda: BatchGPSampler(
                    search_space,
                    x0=x0,
                    block_size=block_size,
                    seed=seed,
                    warm_start=warm_start or None,
                    warm_start_values=warm_start_values,
                    hidden_constraints=("ending",),
                    pruned="value" if pruned == "value" else "left_out",
                    a_priori=allows,
                    **options,
                ),
            )
        case "tpe":
            return rebuilt(lambda s, _: TPESampler(seed=s, **options))
        case "nni-tpe":
            return _try(
                config,
                lambda: NniTPESampler(
                    search_space, block_size=block_size, known=warm_start, allows=allows, seed=seed, **options
                ),
            )
        case "nsga2":
            return rebuilt(lambda s, _: ForgetfulNSGAII(seed=s, **options))
        case "random":
            return rebuilt(lambda s, _: RandomSampler(seed=s, **options))
        case "gp":
            need("the sampler `gp`", "torch")
            return rebuilt(lambda s, _: GPSampler(seed=s, **options))
        case "cma-es":
            if importlib.util.find_spec("cmaes") is None:
                raise MissingExtra("the sampler `cma-es`", "cmaes", extra("cma-es"))
            return rebuilt(lambda s, _: NumericCmaEs(seed=s, warn_independent_sampling=False, **options))
        case "grid":
            return _grid(config, search_space, block_size=block_size, seed=seed, allows=allows)
        case "qmc":
            return rebuilt(lambda _, number: NumberedQMC(seed, number, **options))
        case "auto":
            raise InputError("the sampler `auto` stands for another one, which must be chosen before it is built")
        case "import":
            name = config.imported or ""
            return imported.build(name, options, search_space, x0=x0, block_size=block_size, seed=seed, allows=allows)


GONE = ("fill", "least_fills")  # options of `mads` in version 0.1


def _mads(config: SamplerConfig, search_space: Mapping[str, BaseDistribution], **given: Any) -> Sampler:
    if gone := [option for option in GONE if option in config.options]:
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
    if importlib.util.find_spec("PyNomad") is None:
        raise MissingExtra(
            "the sampler `mads`",
            "PyNomadBBO",
            "pip install PyNomadBBO (it has wheels for Linux x86-64, macOS arm64 and Windows; elsewhere use"
            " `sampler: tpe`)",
        )
    from meshtune.samplers.mads.sampler import MadsSampler

    return _try(
        config,
        lambda: MadsSampler(search_space=search_space, hidden_constraints=("ending",), **given, **config.options),
    )


def _grid(config: SamplerConfig, search_space: Mapping[str, BaseDistribution], **given: Any) -> Sampler:
    if config.options:
        raise InputError(Fault("the sampler `grid` takes none: remove them", key="sampler.options"))
    try:
        return GridSampler(search_space, **given)
    except ValueError as error:
        raise InputError(Fault(str(error), key="space")) from error


def _try(config: SamplerConfig, make: Callable[[], S]) -> S:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise InputError(f"sampler.options of `{config.name}`: {error}") from error
