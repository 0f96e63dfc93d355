"""From image files to pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.decoding import decode

# Four fields that tell every turn and mirroring apart.
PICTURE = np.zeros((16, 24, 3), np.uint8)
PICTURE[:8, :12], PICTURE[:8, 12:], PICTURE[8:, :12], PICTURE[8:, 12:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
)


def encode(image, kind="PNG", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "TGA"])
def test_lossless_formats_give_the_pixels_in_the_order_red_green_blue(kind):
    pixels = decode(encode(PICTURE, kind))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PICTURE)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_give_nearly_the_pixels(kind):
    smooth = np.full((32, 32, 3), (200, 90, 30), np.uint8)
    np.testing.assert_allclose(decode(encode(smooth, kind, quality=95)), smooth, atol=4)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, PICTURE),
        (2, PICTURE[:, ::-1]),
        (3, PICTURE[::-1, ::-1]),
        (4, PICTURE[::-1]),
        (5, PICTURE.transpose(1, 0, 2)),
        (6, np.rot90(PICTURE, -1)),
        (7, PICTURE[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(PICTURE, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_is_turned_as_its_exif_orientation_says(kind, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[kind]
    pixels = decode(encode(PICTURE, kind, exif=exif, **options))
    assert pixels.shape == turned.shape
    np.testing.assert_allclose(pixels.astype(int), turned, atol=8)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
THREE_TIMES = np.stack([GREY] * 3, axis=2)
ALPHA = np.dstack([PICTURE, np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), THREE_TIMES),
        (Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE), PICTURE),
        (Image.fromarray(ALPHA), PICTURE),
        (Image.fromarray(np.dstack([GREY, GREY])), THREE_TIMES),
        (Image.fromarray(GREY > 127), np.where(THREE_TIMES > 127, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), THREE_TIMES),
    ],
    ids=["grey", "palette", "alpha", "grey with alpha", "one bit", "16 bits"],
)
def test_a_png_of_any_kind_gives_three_channels_of_bytes(image, expected):
    np.testing.assert_array_equal(decode(encode(image)), expected)


def test_a_cmyk_jpeg_gives_its_colours():
    image = Image.fromarray(np.full((16, 16, 3), (200, 90, 30), np.uint8)).convert("CMYK")
    np.testing.assert_allclose(decode(encode(image, "JPEG", quality=95)).mean((0, 1)), (200, 90, 30), atol=12)


def test_an_animated_gif_gives_its_first_frame():
    frames = [Image.fromarray(np.full((8, 8, 3), colour, np.uint8)) for colour in ((255, 0, 0), (0, 255, 0))]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_array_equal(decode(content), np.array(frames[0]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no image at all", "not an image"),
        (b"<html>404</html>", "not an image"),
        (b"\xff\xd8\xff\xe0" + bytes(60), "."),
        (encode(PICTURE)[:30], "."),
    ],
    ids=["empty", "text", "web page", "head of a JPEG", "head of a PNG"],
)
def test_what_is_no_image_is_refused_in_one_line(content, reason):
    with pytest.raises(ValueError, match=reason) as error:
        decode(content)
    assert str(error.value)
    assert "\n" not in str(error.value)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says so large, with hardly any pixels in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**21, 1), (60_000, 60_000)])
def test_an_image_too_large_to_decode_is_refused_in_one_line(size):
    with pytest.raises(ValueError, match=r".") as error:
        decode(png_of(*size))
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255))))
def test_damaged_bytes_give_pixels_or_a_value_error(kind, changes):
    content = bytearray(encode(PICTURE, kind))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        pixels = decode(bytes(content))
    except ValueError as error:
        assert str(error)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
