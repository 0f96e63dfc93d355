"""From the bytes of an image file to pixels.

Pillow decodes all formats, HEIC with the plugin pi-heif. OpenCV would decode a JPEG of 512 px at a reduced scale in
0.54 instead of 0.65 ms, but its libraries print messages about damaged files to stderr.
"""

import contextlib
import functools
import io
import logging
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.common.file_types import HEAD, Kind, kind_of

# Without a handler, Pillow would log to stderr what it also raises.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Pillow's own limit for decompression bombs: 512 MiB of RGB.
MAX_PIXELS = 178_956_970

# An image with more pixels takes more than 100 MB per copy, of which decoding makes several.
LARGE_PIXELS = 2**25

# A JPEG is decoded at the smallest scale at which both sides have at least this many times image_size. For plain copies
# the scale then changes the pixels less than the choice of a library does (benchmarks/augment.py quality); for views, a
# crop of a quarter of the photo still has full detail.
PLAIN_DETAIL = 1.25
VIEW_DETAIL = 2
# The borders of a plain copy with resize pad: the middle of 0 to 255.
GREY = 128

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ORIENTATION = 0x0112
_WITH_ORIENTATION = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # in what Pillow knows of a file
# Pillow applies the orientation of these formats itself.
_UPRIGHT_FORMATS = ("TIFF", "HEIF")

# What of a PNG is not decoded: colour profiles, and texts except those that may contain the orientation.
_PNG_PROFILE, _PNG_TEXTS = b"iCCP", (b"tEXt", b"zTXt", b"iTXt")
_PNG_ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")

# A progressive JPEG has about 10 scans, each of which changes all pixels; libjpeg-turbo's own tools allow 500, too.
MAX_SCANS = 500
_SCAN = b"\xff\xda"
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
# Pillow joins comments one by one, so the time grows with the square of their number.
MAX_COMMENTS = 10_000

_STDERR_LOCK = threading.Lock()

_DAMAGED = "damaged or truncated"
_RAW = "a camera's RAW file is not supported: convert it to JPEG"

# Why a file of these kinds cannot be decoded; files of other kinds are not images.
_REASONS = {
    **dict.fromkeys((Kind.JPEG, Kind.PNG, Kind.GIF, Kind.BMP, Kind.WEBP, Kind.NETPBM), _DAMAGED),
    Kind.AVIF: "damaged, truncated or an unusual kind of AVIF",
    Kind.HEIC: "damaged, truncated or an unusual kind of HEIC",
    Kind.TIFF: "damaged, truncated or an unusual kind of TIFF",
    Kind.RAW: _RAW,
    Kind.JPEG_XL: "JPEG XL is not supported: convert it to JPEG",
    Kind.JPEG_2000: "JPEG 2000 is not supported: convert it to JPEG",
    Kind.PSD: "PSD is not supported: convert it to PNG",
    Kind.SVG: "SVG is not supported: convert it to PNG",
    Kind.POINTER: f"is {Kind.POINTER.value}",
}


class _UnusableError(ValueError):
    """An error with a message for the user."""


def decode(content: bytes, least: int = 0, most: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file to RGB ``uint8``, shape ``(height, width, 3)``, upright by its EXIF or XMP orientation.

    The content decides the format: JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, or PPM, PGM or PBM. Of several pictures
    in a file the first, or the primary one of HEIC, is decoded. Transparent pixels are composited over white, 10 and 16
    bits are reduced to 8, and colours are taken as sRGB without applying an ICC profile, as the usual loaders do.

    Args:
        content: the file's bytes.
        least: a JPEG is decoded at 1/2, 1/4 or 1/8 of its scale, which is faster, if both sides keep at least this
            many pixels; 0 decodes at full scale.
        most: allowed number of pixels, up to ``MAX_PIXELS``.

    Raises:
        ValueError: the bytes cannot be decoded or have more than ``most`` pixels; the message is the reason, one line.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings(action="ignore"):
            return _decode(content, least, most)
    except Exception as error:  # Pillow's plugins raise all kinds of errors for damaged bytes
        raise ValueError(_reason(content, error)) from None


def depends_on_scale(content: bytes) -> bool:
    """Whether ``least`` can change the result of ``decode``: only for a JPEG."""
    return kind_of(content[:HEAD]) is Kind.JPEG


@contextlib.contextmanager
def one_large_image(lock: AbstractContextManager[Any]) -> Iterator[None]:
    """Let ``decode`` acquire a lock, before an image of more than ``LARGE_PIXELS``, until the end of the block.

    So the workers that share the lock together need the memory for one large image, not each of them.
    """
    with contextlib.ExitStack() as turn:
        _turn.take = lambda: turn.enter_context(lock)
        try:
            yield
        finally:
            _turn.take = None


def _take_turn() -> None:
    if take := getattr(_turn, "take", None):
        take()
        _turn.take = None


_turn = threading.local()


@functools.cache
def _formats() -> list[str]:
    """Of Pillow's forty formats those in common use: the files may be malicious, so rare decoders stay unused."""
    Image.init()
    # A file is decoded by one thread: the worker processes already use all cores.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pi_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return [name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM") if name in Image.OPEN]


def _decode(content: bytes, least: int, most: int) -> NDArray[np.uint8]:
    image = _open(content)
    _check_header(image, content, most)
    whole = image.size
    if least:
        image.draft(None, (least, least))
    # All coefficients of a progressive JPEG are in memory, whatever the scale.
    width, height = whole if "progressive" in image.info else image.size
    if width * height > LARGE_PIXELS:
        _take_turn()
    with _quiet_stderr() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    transposition = None if image.format in _UPRIGHT_FORMATS else _TRANSPOSITIONS.get(_orientation(image))
    image = _to_rgb(image)
    return np.array(image if transposition is None else image.transpose(transposition))


def _open(content: bytes) -> Image.Image:
    kind = kind_of(content[:HEAD])
    _refuse_repetition(content, kind)
    if kind is not Kind.PNG:
        return Image.open(io.BytesIO(content), formats=_formats())
    start, texts, rest = _png_chunks(content)
    try:
        return Image.open(io.BytesIO(start + texts + rest), formats=["PNG"])
    except ValueError:  # a text inflates to more than Pillow's limit
        return Image.open(io.BytesIO(start + rest), formats=["PNG"])


def _refuse_repetition(content: bytes, kind: Kind | None) -> None:
    """Refuse a small file that would take minutes: a JPEG with many scans, a GIF or a text PPM with many comments."""
    if kind is Kind.JPEG and content.count(_SCAN) > MAX_SCANS and _has_many_scans(content):
        raise _UnusableError(f"more than {MAX_SCANS:,} scans")
    is_text = content[:2] in (b"P1", b"P2", b"P3")  # pixels in decimal digits
    comments = _gif_comments(content) if kind is Kind.GIF else content.count(b"#") if is_text else 0
    if comments > MAX_COMMENTS:
        raise _UnusableError(f"more than {MAX_COMMENTS:,} comments")


def _gif_comments(content: bytes) -> int:
    """The comments of a GIF before its first image, of up to 255 bytes each."""
    palette = 3 << (content[10] & 7) + 1 if content[10:11] > b"\x7f" else 0
    place, comments = 13 + palette, 0
    while (start := content[place : place + 1]) not in (b"", b",", b";"):
        place += 1
        if start == b"!":
            is_comment = content[place : place + 1] == b"\xfe"
            place += 1
            while place < len(content) and content[place]:
                place += content[place] + 1
                comments += is_comment
            place += 1
            comments += is_comment
    return comments


def _has_many_scans(content: bytes) -> bool:
    """Whether a JPEG has more than ``MAX_SCANS`` scans before its end, besides those of its thumbnail."""
    place = scans = 0
    while scans <= MAX_SCANS and (marker := _JPEG_MARKER.search(content, place)) and marker[1] != b"\xd9":
        scans += marker[0] == _SCAN
        # Its parameters; those of an application can be any bytes, such as a whole JPEG.
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return scans > MAX_SCANS


def _png_chunks(content: bytes) -> tuple[bytes, bytes, bytes]:
    """Verify all checksums of a PNG, which Pillow does not, and leave out its profile and most texts: Pillow would
    inflate them first, and reject the whole file if they are large.

    Returns:
        The signature and the header, the texts that may contain the orientation, and all other chunks.
    """
    place, texts, others = 8, [], []
    try:
        while True:
            length, kind = struct.unpack_from(">I4s", content, place)
            end = place + length + 12
            (checksum,) = struct.unpack_from(">I", content, end - 4)
            chunk = content[place:end]
            if zlib.crc32(chunk[4:-4]) != checksum:
                raise _UnusableError(_DAMAGED)
            if kind in _PNG_TEXTS and chunk[8:].startswith(_PNG_ORIENTATION_TEXTS):
                texts.append(chunk)
            elif kind not in (*_PNG_TEXTS, _PNG_PROFILE):
                others.append(chunk)
            if kind == b"IEND":
                return content[:8] + others[0], b"".join(texts), b"".join(others[1:])
            place = end
    except struct.error:
        raise _UnusableError("truncated") from None


def _check_header(image: Image.Image, content: bytes, most: int) -> None:
    if not image.width or not image.height:
        raise _UnusableError("its width or height is 0")
    if image.width * image.height > most:
        raise _UnusableError(f"more than {most:,} pixels")
    # 254 & 1: the first page is a reduced copy of another one, like the thumbnail in a RAW file; 50706: DNG version.
    if isinstance(image, TiffImageFile) and (
        image.tag_v2.get(254, 0) & 1 or 50706 in image.tag_v2 or content[8:10] == b"CR"
    ):
        raise _UnusableError(_RAW)


def _orientation(image: Image.Image) -> Any:
    """The orientation as ``ImageOps.exif_transpose`` finds it in EXIF or XMP data, 1 if it is missing."""
    if _WITH_ORIENTATION.isdisjoint(image.info):
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data is no reason to reject the image
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    # convert() would clip at 255; a PGM of 16 bits has the mode of 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _UnusableError("pixels of 32 bits have no agreed range: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what is written to the process's stderr: libtiff reports damage there and has no option against it."""
    with _STDERR_LOCK, Path(os.devnull).open("wb") as devnull:
        stderr = os.dup(2)
        os.dup2(devnull.fileno(), 2)
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


def plain_photo(content: bytes, size: int, most: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a file for a plain copy of ``size`` pixels; ``most``, result and errors as in ``decode``."""
    return decode(content, round(PLAIN_DETAIL * size), most)


def smaller_photo(content: bytes, size: int, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What ``plain_photo`` gives for ``size`` pixels; ``photo`` is its result for more."""
    # A JPEG is reduced by a power of two as long as it stays this large.
    could_be_reduced = depends_on_scale(content) and min(photo.shape[:2]) >= 2 * round(PLAIN_DETAIL * size)
    return plain_photo(content, size) if could_be_reduced else photo


def photo_for_views(content: bytes, size: int, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode a file for views of ``size`` pixels; ``photo`` is the result of ``plain_photo``."""
    return decode(content, VIEW_DETAIL * size) if depends_on_scale(content) else photo
