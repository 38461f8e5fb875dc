"""Loaded models: functions from structures to energies and forces."""
