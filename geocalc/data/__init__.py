"""Labeled structures and the training samples made of them."""
