"""A finished study: scores of its candidates on benchmarks, and one choice from them."""
