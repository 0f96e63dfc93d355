"""Tests of pipeline/archives."""
