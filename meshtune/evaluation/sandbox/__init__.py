"""Code that a model wrote, run and judged apart."""
