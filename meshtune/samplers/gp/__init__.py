"""A Gaussian process that proposes blocks of points, as an Optuna sampler."""
