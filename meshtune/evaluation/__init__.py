"""Benchmarks: their items, prompts, answers and verdicts, and the sandbox for code that models write."""

import logging

# Peft imports bitsandbytes where that is installed, which advises at its import to install kernels not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
