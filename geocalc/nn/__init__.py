"""Reusable layers."""
