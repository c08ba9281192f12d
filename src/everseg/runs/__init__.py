"""A run folder and everything that can be done with it."""
