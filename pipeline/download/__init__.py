"""Stage ``download``: the images of any source in one archive."""
