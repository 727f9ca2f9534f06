"""Several adapters over one base, trained at once."""
