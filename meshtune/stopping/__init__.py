"""Early stopping: the rules, their use in a study, and a model of points and curves."""
