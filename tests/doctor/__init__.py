"""Tests of the doctor with real repositories that are broken on purpose."""
