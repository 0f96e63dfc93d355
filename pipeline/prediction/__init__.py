"""Predictions for any files."""
