"""The built-in images: the 1,797 handwritten digits that scikit-learn ships, 8×8 pixels, ten classes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from pipeline.params.data import DataParams
from pipeline.sources.image_set import ImageSet, SourceImage


@contextmanager
def open_digits(params: DataParams) -> Iterator[ImageSet]:
    """Yield the digits as PNG files without splits (Alpaydin & Kaynak, UCI, 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    paths = {f"{index:04}.png": index for index in range(len(pixels))}
    images = tuple(SourceImage(path, path, None, int(digits.target[index])) for path, index in paths.items())
    classes = params.classes or tuple(str(name) for name in digits.target_names)
    yield ImageSet(classes, images, lambda path: _png(pixels[paths[path]]))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
