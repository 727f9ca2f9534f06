"""Figures, tables and pages from the status of a study (`meshtune.study.status.of_record` with all trials)."""
