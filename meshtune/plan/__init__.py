"""From the config to the parts of a study, and what they will take."""
