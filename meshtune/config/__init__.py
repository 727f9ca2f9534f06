"""study.yaml: its sections as frozen types, its faults, the file, and the template that `init` writes."""
