"""Early stopping: the rules, and their use in a study."""
