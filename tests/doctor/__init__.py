"""Tests of the doctor: repositories that are broken as they break in life."""
