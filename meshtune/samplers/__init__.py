"""Optimizers: what proposes points. `MadsSampler` is for any Optuna study."""

from meshtune.samplers.mads import MadsSampler

__all__ = ["MadsSampler"]
