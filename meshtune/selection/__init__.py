"""Selection: which model is better, and how sure that is."""
