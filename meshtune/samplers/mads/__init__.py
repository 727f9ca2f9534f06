"""MADS (NOMAD) as an Optuna sampler."""
