"""A search of the parameters by Optuna, each trial an experiment of DVC."""
