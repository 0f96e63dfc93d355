"""What every stage shares: atomic files, paths, the raw archive, the packed dataset."""
