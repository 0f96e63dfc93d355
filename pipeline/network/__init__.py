"""The network: architectures, weights file, batches, device and inference."""
