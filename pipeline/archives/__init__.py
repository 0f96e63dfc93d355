"""Files that lie in archives, in archives within those, or in folders, as one tree; what is unsafe is refused."""
