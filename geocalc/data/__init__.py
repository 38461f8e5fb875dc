"""Labeled structures and their preparation as training samples."""
