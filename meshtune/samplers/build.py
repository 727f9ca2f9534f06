"""The sampler that a study.yaml names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from meshtune.config import SamplerConfig
from meshtune.errors import InputError, MissingExtra
from meshtune.samplers.rebuilt import Build, NumberedQMC, RebuiltSampler


class Sampler(Protocol):
    """The sampler seam: an Optuna `BaseSampler` that also says what it can propose without waiting.

    `available(study)`: points of the open block that can be proposed now; 0 with trials pending: wait; 0 with none
    pending: the space is exhausted. `close()`: let go of processes; may be called twice. The rest is Optuna's.
    """

    def available(self, study: Study) -> int:
        """See the class."""

    def close(self) -> None:
        """See the class."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As Optuna's."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's."""


def build(
    config: SamplerConfig,
    search_space: Mapping[str, BaseDistribution],
    *,
    x0: Mapping[str, Any] | None,
    block_size: int,
    seed: int,
    new_segment: bool = False,
) -> Any:
    """The sampler of the config over these distributions. Raises InputError on options that it does not know."""
    options = config.options

    def rebuilt(make: Build) -> RebuiltSampler:
        def quietly(seed: int, number: int) -> BaseSampler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # the user has named the sampler: no need to warn
                return make(seed, number)

        _try(config, lambda: quietly(0, 0))
        return RebuiltSampler(quietly, search_space, seed=seed, block_size=block_size)

    match config.name:
        case "mads":
            return _mads(config, search_space, x0=x0, block_size=block_size, seed=seed, new_segment=new_segment)
        case "tpe":
            return rebuilt(lambda s, _: TPESampler(seed=s, **options))
        case "random":
            return rebuilt(lambda s, _: RandomSampler(seed=s, **options))
        case "gp":
            return rebuilt(lambda s, _: GPSampler(seed=s, **options))
        case "qmc":
            return rebuilt(lambda _, number: NumberedQMC(seed, number, **options))


def _mads(config: SamplerConfig, search_space: Mapping[str, BaseDistribution], **given: Any) -> Any:
    import importlib.util

    if importlib.util.find_spec("PyNomad") is None:
        raise MissingExtra(
            "the sampler `mads`",
            "PyNomadBBO",
            "pip install PyNomadBBO (it has wheels for Linux x86-64, macOS arm64 and Windows; elsewhere use"
            " `sampler: tpe`)",
        )
    from meshtune.samplers.mads import MadsSampler

    return _try(config, lambda: MadsSampler(search_space, **given, **config.options))


def _try(config: SamplerConfig, make: Callable[[], BaseSampler]) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise InputError(f"sampler.options of `{config.name}`: {error}") from error
