"""Stage ``train``: the training engine."""
