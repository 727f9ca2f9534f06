"""Benchmarks: what a candidate is asked, what counts as right, and where code that a model wrote is run."""
