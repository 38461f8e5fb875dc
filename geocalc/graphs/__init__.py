"""Neighbor lists and the graphs built from them."""
