"""The training engine: one module a subject."""
