"""The flow of a study: tune, the loop, promotion, replicates, finals, status."""
