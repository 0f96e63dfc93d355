"""Stage ``augment``: images to packed arrays, and an audit of the data."""
