"""Errors of models on labelled data."""
