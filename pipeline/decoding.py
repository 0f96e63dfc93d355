"""From the bytes of an image file to pixels."""

import io

import cv2
import numpy as np

# The results must not depend on it, and the worker processes already use every core.
cv2.setNumThreads(1)


def decode(content: bytes) -> np.ndarray:
    """Decode an image file to RGB ``uint8``, shape ``(height, width, 3)``, turned as its EXIF orientation says.

    Raises:
        ValueError: the bytes are no image that can be decoded; the message says why.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        # Of more pixels than OpenCV allows, most often because the header is damaged.
        raise ValueError(" ".join(str(error).split())) from None
    return image if image is not None else _decode_with_pillow(content)


def _decode_with_pillow(content: bytes) -> np.ndarray:
    """The formats that OpenCV does not read; slower."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError("not an image" if "cannot identify" in reason else reason) from None
