"""Experiments of DVC: read what they left, and run them beside the workspace, one for each of several seeds."""
