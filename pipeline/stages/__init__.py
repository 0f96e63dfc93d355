"""The DVC stages, one module each: it reads its section and the files before it, and writes the files after it."""
