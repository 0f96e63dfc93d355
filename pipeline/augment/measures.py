"""What the audit knows of an image: taken while it is decoded anyway, in the worker processes."""

import hashlib

import cv2
import imagehash
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from PIL import Image

# At this size, or at that of the plain copy where it is smaller, an image is judged.
JUDGED_SIZE = 128
HASH_BITS = 64
# The side to which a perceptual hash shrinks an image: a smaller one holds too little to be told from another.
HASH_SIDE = 32

MEASURES = np.dtype(
    [
        ("content", "V16"),  # digest of the file
        ("hash", "u8"),  # perceptual hash
        ("mirrored_hash", "u8"),  # that of the mirrored image
        ("short_side", "u4"),  # pixels
        ("low", "u1"),  # 5th percentile of the luma
        ("high", "u1"),  # 95th percentile of the luma
        ("sharpness", "f4"),  # variance of the Laplacian over the variance, which contrast does not change
        ("moments", "i8", (2, 3)),  # the channels' sums and sums of squares over the plain copy
    ]
)


def measure(content: bytes, photo: NDArray[np.uint8], plain: NDArray[np.uint8]) -> NDArray[np.void]:
    """Measure an image.

    Args:
        content: the file's bytes.
        photo: as decoded, ``uint8``, ``(height, width, 3)``.
        plain: its plain copy, ``uint8``, ``(image_size, image_size, 3)``.

    Returns:
        An array of type ``MEASURES`` without dimensions.
    """
    luma = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)
    if len(luma) > JUDGED_SIZE:
        luma = cv2.resize(luma, (JUDGED_SIZE, JUDGED_SIZE), interpolation=cv2.INTER_AREA)
    low, high = np.searchsorted(np.cumsum(_histogram(luma)), [0.05 * luma.size, 0.95 * luma.size])
    small = cv2.resize(luma, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA)
    # From histograms: exact, and ten times as fast as sums over the pixels.
    values = np.arange(256)
    counts = [_histogram(plain, channel) for channel in range(3)]
    (_, contrast), (_, roughness) = cv2.meanStdDev(luma), cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return np.array(
        (
            hashlib.blake2b(content, digest_size=16).digest(),
            _perceptual_hash(small),
            _perceptual_hash(small[:, ::-1]),
            min(photo.shape[:2]),
            low,
            high,
            roughness.item() ** 2 / (contrast.item() ** 2 + 1),
            [[count @ values for count in counts], [count @ values**2 for count in counts]],
        ),
        MEASURES,
    )


def _histogram(image: MatLike, channel: int = 0) -> NDArray[np.int64]:
    """How many pixels have each of the 256 values."""
    return cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


def _perceptual_hash(luma: MatLike) -> int:
    """The signs of the lowest 8×8 frequencies against their median (imagehash's ``phash``)."""
    bits = imagehash.phash(Image.fromarray(luma)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
