"""Small pictures of the images, few enough bytes that all of them fit into one page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

# Side in pixels and quality of WebP, the best first; base64 makes four bytes of three.
FORMS = ((96, 80), (80, 75), (64, 70), (56, 60), (48, 50))
SAMPLE = 128


@dataclass(frozen=True)
class Thumbnails:
    """Data URIs by row, for as many rows as the budget allows."""

    side: int
    uris: dict[int, str]


def make_thumbnails(images: NDArray[np.uint8], rows: Sequence[int], first: set[int], budget: int) -> Thumbnails:
    """Encode the plain copies of ``rows``, as large as all of them together fit into ``budget`` characters.

    Where they don't fit at the smallest size, those in ``first`` come first, then an even sample of the others.

    Args:
        images: ``uint8``, ``(images, copies, height, width, 3)``.
        rows: places in ``images``.
        first: the rows that need a picture most.
        budget: characters.
    """
    ordered = [*(row for row in rows if row in first), *_spread([row for row in rows if row not in first])]
    sample = ordered[:: max(len(ordered) // SAMPLE, 1)]
    for side, quality in FORMS:
        mean = sum(len(_encoded(images[row, 0], side, quality)) for row in sample) / max(len(sample), 1)
        if mean * len(ordered) <= budget * 0.95:
            break
    uris, used = {}, 0
    for row in ordered:
        uri = _encoded(images[row, 0], side, quality)
        used += len(uri)
        if used > budget:
            break
        uris[row] = uri
    return Thumbnails(min(side, images.shape[2]), uris)


def _spread(rows: list[int]) -> list[int]:
    """In an order of which each beginning is an even sample of the whole."""
    count = len(rows)
    bits = max(count - 1, 1).bit_length()
    reversed_bits = (int(f"{place:0{bits}b}"[::-1], 2) for place in range(1 << bits))
    return [rows[place] for place in reversed_bits if place < count]


def _encoded(pixels: NDArray[np.uint8], side: int, quality: int) -> str:
    """A WebP as a data URI; a smaller image is not enlarged."""
    small: MatLike = np.ascontiguousarray(pixels[..., ::-1])
    if len(small) > side:
        small = cv2.resize(small, (side, side), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
