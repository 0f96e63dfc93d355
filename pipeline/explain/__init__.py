"""Stage ``explain``: which parts of an image speak for a class."""
