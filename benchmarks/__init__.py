"""Measurements: each prints machine, versions, settings, and a ratio against a baseline."""
