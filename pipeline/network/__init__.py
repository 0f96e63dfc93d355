"""The network: its architecture, its weights file, and what it gives for images."""
