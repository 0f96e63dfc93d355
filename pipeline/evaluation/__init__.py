"""What is computed on a trained network's outputs."""
