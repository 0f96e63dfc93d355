"""What is wrong with a dataset: bad files, duplicates and leaks, contradictory labels, unfit images."""
