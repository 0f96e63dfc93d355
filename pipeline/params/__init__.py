"""Validates ``params.yaml``: the schema, error messages, the reference of all parameters, and recipes."""
