"""Tests of the stages, on a small dataset of generated photos."""
