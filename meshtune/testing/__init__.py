"""Contract suites: one a seam. Subclass one in your tests and say how to make your implementation.

Needs pytest, which the package itself does not.
"""
