"""Logits of a simulated network."""

import numpy as np
from scipy.special import softmax


def simulate(images: int, classes: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times those whose softmax the labels are drawn from."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    return logits * temperature, np.minimum(labels, classes - 1)
