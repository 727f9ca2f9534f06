"""Several commands in order, from one YAML file: read, checked, and run; killed at any line, it goes on there."""
