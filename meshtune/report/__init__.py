"""Figures, tables and pages from the status of a study (`meshtune.commands.status.of_record` with all trials)."""
