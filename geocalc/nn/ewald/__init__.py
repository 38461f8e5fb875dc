"""Ewald message passing: messages between atoms beyond the cutoff."""
