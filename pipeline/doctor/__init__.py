"""``python -m pipeline doctor``: checks of the environment and the repository, each with how to fix what it finds."""
