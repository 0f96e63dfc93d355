"""From photos to packed arrays, and from those to batches."""
