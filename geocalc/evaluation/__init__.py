"""Errors of models on labeled data."""
