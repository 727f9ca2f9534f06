"""Trackers as mirrors of a study: they read its record, and are never in its way."""
