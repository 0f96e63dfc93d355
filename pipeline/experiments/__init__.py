"""DVC experiments: several seeds, sweeps and comparisons; and the learning rate range test."""
