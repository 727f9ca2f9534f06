"""Benchmarks: their items, prompts, answers and verdicts, and the sandbox for code that models write."""
