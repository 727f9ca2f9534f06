"""What is known of LoRA's hyperparameters before any trial: a table of runs, a model of it, and advice."""

from meshtune.priors.advice import Advice, advise

__all__ = ["Advice", "advise"]
