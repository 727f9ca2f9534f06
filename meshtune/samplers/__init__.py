"""Samplers: Optuna `BaseSampler`s that also say how many points they can propose without waiting."""
