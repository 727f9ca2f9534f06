"""From instruction data to tokens on disk: sources, mixture, split, prompts, and the memory-mapped rows."""
