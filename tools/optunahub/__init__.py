"""Makes the folder of OptunaHub's registry that holds the MADS sampler: `python -m tools.optunahub.build`."""
