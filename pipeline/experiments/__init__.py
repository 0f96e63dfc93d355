"""Experiments of DVC: run beside the workspace, read, and compared."""
