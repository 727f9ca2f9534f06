"""Optimizers: what proposes points. `BatchGPSampler` and `MadsSampler` are for any Optuna study."""

from meshtune.samplers.gp.sampler import BatchGPSampler
from meshtune.samplers.mads.sampler import MadsSampler

__all__ = ["BatchGPSampler", "MadsSampler"]
