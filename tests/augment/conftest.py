"""Fixtures: real photos."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

SIDE = 105


@pytest.fixture(scope="session")
def photographs():
    """Tiles of scikit-learn's two sample photos without plain sky, ``(tiles, 105, 105, 3)``; they do not overlap."""
    tiles = [
        picture[top : top + SIDE, left : left + SIDE]
        for picture in load_sample_images().images
        for top in range(0, 4 * SIDE, SIDE)
        for left in range(0, 6 * SIDE, SIDE)
    ]
    return np.stack([tile for tile in tiles if tile.std() > 30])
