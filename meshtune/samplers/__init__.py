"""Optimizers: what proposes points. `BatchGPSampler` and `MadsSampler` are for any Optuna study.

Importing the package loads neither: each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshtune.samplers.gp.sampler import BatchGPSampler
    from meshtune.samplers.mads.sampler import MadsSampler

__all__ = ["BatchGPSampler", "MadsSampler"]

_OFFERED = {"BatchGPSampler": "meshtune.samplers.gp.sampler", "MadsSampler": "meshtune.samplers.mads.sampler"}


def __getattr__(name: str) -> Any:
    """A sampler by its name."""
    if name not in _OFFERED:
        raise AttributeError(f"module 'meshtune.samplers' has no attribute {name!r}")
    return getattr(import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
