"""Layers whose equivariance is relaxed by learnable weights; they need e3nn, the extra [e3nn]."""
