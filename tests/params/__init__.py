"""Tests of pipeline/params."""
