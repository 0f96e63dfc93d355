"""Which parts of a photo speak for its class: occlusion (Zeiler and Fergus 2014), which needs no gradient."""

import io
import math
import time

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.network.onnx_file import OnnxModel

# Cells per side; the image size is a multiple of 32. A window covers two by two of them.
SIDE = 8
BATCH = 8
LEAST_PIXELS = 256
# How bright the parts are that say nothing.
DARK = 0.25


def occlusion_map(model: OnnxModel, pixels: NDArray[np.uint8], deadline: float = math.inf) -> NDArray[np.float32]:
    """How much the logit of the predicted class falls when a window around each cell has the mean colour of the image.

    Args:
        model: the network.
        pixels: a plain copy, ``uint8``, ``(size, size, 3)``.
        deadline: a time of ``time.monotonic``.

    Returns:
        From 0 to 1, ``float32``, ``(SIDE, SIDE)``; 0 everywhere if no window lowers the logit.

    Raises:
        TimeoutError: it is not ready by the deadline.
    """
    _, logits = model.run(pixels[None])
    best, step = logits[0].argmax(), len(pixels) // SIDE
    copies = np.repeat(pixels[None], SIDE**2, axis=0)
    for copy, (row, column) in zip(copies, np.ndindex(SIDE, SIDE), strict=True):
        top, left = (max(place * step - step // 2, 0) for place in (row, column))
        copy[top : row * step + step + step // 2, left : column * step + step + step // 2] = pixels.mean(axis=(0, 1))
    covered = []
    for start in range(0, SIDE**2, BATCH):
        if time.monotonic() > deadline:
            raise TimeoutError
        covered.append(model.run(copies[start : start + BATCH])[1][:, best])
    falls = np.maximum(logits[0, best] - np.concatenate(covered), 0).reshape(SIDE, SIDE)
    return np.asarray(falls / max(falls.max(), np.finfo(np.float32).tiny), np.float32)


def highlighted(pixels: NDArray[np.uint8], cells: NDArray[np.float32]) -> bytes:
    """A PNG of the image in which the parts with low values are dark."""
    size = max(len(pixels), LEAST_PIXELS)
    photo = Image.fromarray(pixels).resize((size, size))
    light = np.asarray(Image.fromarray(cells).resize((size, size), Image.Resampling.BILINEAR)).clip(0, 1)
    bright = np.asarray(photo) * (DARK + (1 - DARK) * light)[:, :, None]
    content = io.BytesIO()
    Image.fromarray(bright.astype(np.uint8)).save(content, "PNG")
    return content.getvalue()
