"""From the bytes of an image file to pixels.

Pillow reads every format, OpenCV none: it would decode a JPEG of 512 px at a reduced scale in 0.54 instead of 0.65 ms,
but its libraries write what they think of a damaged file straight to stderr.
"""

import contextlib
import functools
import io
import logging
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.common.file_types import HEAD, Kind, kind_of

# Where nobody configured logging, it would write to stderr what it also raises.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Pillow's own limit for what it holds to be a decompression bomb: 512 MiB of RGB.
MAX_PIXELS = 178_956_970

# A JPEG is decoded at the least scale that keeps so many times the size on both sides: for the plain copy, so that what
# the scale changes stays within what the choice of a library does (benchmarks/augment.py quality); for the views, so
# that a crop of a quarter of the photo still has full detail.
PLAIN_DETAIL = 1.25
VIEW_DETAIL = 2

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_STDERR_LOCK = threading.Lock()

_DAMAGED = "damaged or truncated"
_RAW = "a camera's RAW file is not supported: convert it to JPEG"

# What to say of a file that could not be decoded; of any other kind that it is no image.
_REASONS = {
    **dict.fromkeys((Kind.JPEG, Kind.PNG, Kind.GIF, Kind.BMP, Kind.WEBP), _DAMAGED),
    Kind.AVIF: "damaged, truncated or an unusual kind of AVIF",
    Kind.TIFF: "damaged, truncated or an unusual kind of TIFF",
    Kind.RAW: _RAW,
    Kind.HEIC: "HEIC is not supported: convert it to JPEG",
    Kind.JPEG_XL: "JPEG XL is not supported: convert it to JPEG",
    Kind.JPEG_2000: "JPEG 2000 is not supported: convert it to JPEG",
    Kind.PSD: "PSD is not supported: convert it to PNG",
    Kind.SVG: "SVG is not supported: convert it to PNG",
    Kind.POINTER: "is a Git LFS pointer: run git lfs pull",
    Kind.PAGE: "is a web page, not an image",
}


class _UnusableError(ValueError):
    """Its message is fit for the user."""


def decode(content: bytes, least: int = 0) -> NDArray[np.uint8]:
    """Decode an image file to RGB ``uint8``, shape ``(height, width, 3)``, turned as its EXIF orientation says.

    JPEG, PNG, WebP, GIF, BMP, TIFF and, where Pillow was built with it, AVIF are told by their content. Of several
    pictures in a file the first is taken. What is transparent is laid over white; 16 bits become 8; colours are taken
    for sRGB whatever the file's ICC profile says, as the usual loaders do.

    Args:
        content: the file's bytes.
        least: where both sides stay at least this many pixels, a JPEG is decoded at 1/2, 1/4 or 1/8 of its scale,
            which is faster; 0 for full scale.

    Raises:
        ValueError: the bytes cannot be decoded or hold more than ``MAX_PIXELS``; the message says why in one line.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings(action="ignore"):
            return _decode(content, least)
    except Exception as error:  # on damaged bytes Pillow's plugins raise nearly anything
        raise ValueError(_reason(content, error)) from None


def depends_on_scale(content: bytes) -> bool:
    """Whether ``least`` can change what ``decode`` gives: of a JPEG alone."""
    return kind_of(content[:HEAD]) is Kind.JPEG


@functools.cache
def _formats() -> list[str]:
    """The formats that are tried on files nobody vouches for: of Pillow's forty, those that people have."""
    Image.init()
    return [name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if name in Image.OPEN]


def _decode(content: bytes, least: int) -> NDArray[np.uint8]:
    image: Image.Image = Image.open(io.BytesIO(content), formats=_formats())
    _check_header(image, content)
    if least:
        image.draft(None, (least, least))
    with _quiet_stderr() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    turn = _TURNS.get(_orientation(image.info.get("exif", b"")))
    image = _to_rgb(image)
    return np.array(image if turn is None else image.transpose(turn))


def _check_header(image: Image.Image, content: bytes) -> None:
    if not image.width or not image.height:
        raise _UnusableError("its width or height is 0")
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if image.format == "PNG":
        Image.open(io.BytesIO(content), formats=["PNG"]).verify()  # the checksums, which load() passes over
    # 254 & 1: the first page is a reduced copy of another, as the thumbnail in a RAW file; 50706: DNG's version.
    if isinstance(image, TiffImageFile) and (
        image.tag_v2.get(254, 0) & 1 or 50706 in image.tag_v2 or content[8:10] == b"CR"
    ):
        raise _UnusableError(_RAW)


def _orientation(exif: bytes) -> int:
    """The orientation in the EXIF data, 1 where there is none. Pillow's ``getexif()`` takes ten times as long."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = "<" if exif[:1] == b"I" else ">"
    with contextlib.suppress(struct.error):  # damaged EXIF data are no reason to refuse the picture
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for place in range(start + 2, start + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, place)
            if tag == 0x0112:
                return int(value)
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _UnusableError("pixels of 32 bits have no agreed range: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send what is written to the process's stderr nowhere: libtiff reports damage there and cannot be told not to."""
    with _STDERR_LOCK, Path(os.devnull).open("wb") as nowhere:
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _reason(content: bytes, error: Exception) -> str:
    if isinstance(error, _UnusableError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "not enough memory for its pixels"
    kind = kind_of(content[:HEAD])
    if kind is None:
        return "not an image"
    reason = _REASONS.get(kind, f"is {kind.value}, not an image")
    return "truncated" if reason == _DAMAGED and "truncated" in str(error).lower() else reason


def plain_photo(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode a file for a plain copy of ``size`` pixels, ``(height, width, 3)``; ValueError says why it cannot be."""
    return decode(content, round(PLAIN_DETAIL * size))


def photo_for_views(content: bytes, size: int, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a file for views of ``size`` pixels; ``photo`` is what ``plain_photo`` gave of it."""
    return decode(content, VIEW_DETAIL * size) if depends_on_scale(content) else photo
