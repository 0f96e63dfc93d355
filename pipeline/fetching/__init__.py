"""Getting files from elsewhere into the cache that all clones of the project share."""
