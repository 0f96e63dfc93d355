"""Tests of experiments, run by real DVC."""
