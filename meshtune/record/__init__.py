"""The record: an ordered log over one Optuna storage, its trials, and how they are scored."""
