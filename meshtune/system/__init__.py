"""What knows nothing of trials: whole files, YAML, imports by name, child processes, leases, text."""
