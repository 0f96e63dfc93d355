"""Photos with the detail of real ones, cut from the two that scikit-learn ships."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

SIDE = 105


@pytest.fixture(scope="session")
def photographs():
    """Different photos of 105×105 pixels that do not overlap, shape ``(photos, 105, 105, 3)``; no plain sky."""
    tiles = [
        picture[top : top + SIDE, left : left + SIDE]
        for picture in load_sample_images().images
        for top in range(0, 4 * SIDE, SIDE)
        for left in range(0, 6 * SIDE, SIDE)
    ]
    return np.stack([tile for tile in tiles if tile.std() > 30])
