"""Data: from sources of instruction rows to memory-mapped tokens with a fingerprint."""
