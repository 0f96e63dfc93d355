"""Stage ``learning_rates``: optimizers on an error surface."""
