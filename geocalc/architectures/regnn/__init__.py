"""Layers whose equivariance is relaxed by learnable weights."""
