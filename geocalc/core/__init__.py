"""A batch of structures and the arithmetic on it."""
