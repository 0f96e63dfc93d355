"""Stage ``source``: a listing of the source's files, which changes when one of them does."""
