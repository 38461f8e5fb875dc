"""Relaxation of atoms and cells with any potential."""
