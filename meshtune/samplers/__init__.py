"""Optimizers: what proposes points. `BatchGPSampler` and `MadsSampler` are for any Optuna study."""

from meshtune.samplers.batch_gp import BatchGPSampler
from meshtune.samplers.mads import MadsSampler

__all__ = ["BatchGPSampler", "MadsSampler"]
