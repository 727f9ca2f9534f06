"""The benchmarks: items, prompts, verdicts, and where their data are."""
