"""Stage ``predict``: predictions for a split, or for any files."""
