"""Hyperparameters, what is searched of them, and the goals of a search."""
