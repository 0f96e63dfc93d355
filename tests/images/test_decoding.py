"""Tests of decoding image files."""

import contextlib
import io
import os
import re
import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from pipeline.images import decoding
from pipeline.images.decoding import decode, one_large_image, plain_photo, smaller_photo
from tests.support.hostile_images import (
    NOISE,
    PICTURE,
    encode,
    hostile_files,
    jpeg_of_scans,
    oriented,
    png,
    png_chunk,
    tiff,
)

HOSTILE_FILES = hostile_files()
SMALL_FILES = [file.content for file in HOSTILE_FILES.values() if len(file.content) < 10_000]
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
WRITERS = {
    "JPEG": {},
    "progressive JPEG": {"kind": "JPEG", "progressive": True},
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "TIFF": {},
    "LZW TIFF": {"kind": "TIFF", "compression": "tiff_lzw"},
    "PPM": {},
}
WHOLE_FILES = {name: encode(NOISE, **{"kind": name, **options}) for name, options in WRITERS.items()}
GIF_HEADER = 13 + 3 * 256  # bytes, with the palette


def decode_or_reason(content: bytes, least: int = 0) -> np.ndarray | str:
    """The pixels, or the reason for the error; both are checked for their documented form."""
    try:
        pixels = decode(content, least)
    except ValueError as error:
        reason = str(error)
        assert reason.isprintable() and 0 < len(reason) < 120
        return reason
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    return pixels


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_hostile_file_is_decoded_or_rejected_with_a_reason_and_nothing_is_printed(name, capfd):
    file = HOSTILE_FILES[name]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        result = decode_or_reason(file.content)
    if file.reason is not None:
        assert isinstance(result, str), "was not rejected"
        assert re.search(file.reason, result)
    else:
        assert not isinstance(result, str), result
        assert result.shape == file.pixels.shape
        np.testing.assert_allclose(result.astype(int), file.pixels, rtol=0, atol=file.tolerance)
    assert not shown
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_with_many_scans_is_refused_at_once():
    assert decode(jpeg_of_scans(32, 500)).shape == (32, 32, 3)
    start = time.process_time()
    assert decode_or_reason(jpeg_of_scans(8000, 20_000)) == "more than 500 scans"
    assert time.process_time() - start < 2


def test_scans_of_a_thumbnail_and_of_what_follows_a_photo_do_not_count():
    photo, scan = encode(PICTURE, "JPEG"), b"\xff\xda\x00\x02"
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(scan) * 1000) + scan * 1000
    for content in (photo[:2] + thumbnail + photo[2:], photo + scan * 1000):
        np.testing.assert_array_equal(decode(content), decode(photo))


def test_a_marker_without_a_length_hides_no_scans():
    content = jpeg_of_scans(32, 600)
    first = content.index(b"\xff\xda")
    assert decode_or_reason(content[:first] + b"\xff\x01" + content[first:]) == "more than 500 scans"


@pytest.mark.parametrize(
    ("before", "comment", "after"),
    [
        (WHOLE_FILES["GIF"][:GIF_HEADER], b"!\xfe\1x\0", WHOLE_FILES["GIF"][GIF_HEADER:]),
        (b"P1\n", b"#\n", b"2 1\n0 1\n"),
        (b"P3\n2 1 255\n", b"# red\n", b"255 0 0 0 0 0\n"),
    ],
    ids=["GIF", "PBM", "PPM"],
)
def test_a_file_with_many_comments_is_refused_at_once(before, comment, after):
    assert isinstance(decode_or_reason(before + comment * 10 + after), np.ndarray)
    start = time.process_time()
    assert decode_or_reason(before + comment * 500_000 + after) == "more than 10,000 comments"
    assert time.process_time() - start < 2


def test_a_gif_with_a_long_comment_is_refused_at_once_wherever_it_is_before_the_image():
    before, after = WHOLE_FILES["GIF"][:GIF_HEADER], WHOLE_FILES["GIF"][GIF_HEADER:]
    for garbage in (b"", b"\0\1"):  # which Pillow skips
        content = before + garbage + b"!\xfe" + b"\1x" * 20_000 + b"\0" + after
        assert decode_or_reason(content) == "more than 10,000 comments"
    assert isinstance(decode_or_reason(before + b"!\xf9\4\0\0\0\0\0" + after), np.ndarray)


def test_the_hostile_files_are_many_and_reproducible():
    assert len(HOSTILE_FILES) >= 45
    assert {name: file.content for name, file in HOSTILE_FILES.items()} == {
        name: file.content for name, file in hostile_files().items()
    }


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_return_the_pixels_in_rgb_order(kind):
    pixels = decode(encode(NOISE, kind, **LOSSLESS[kind]))
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, NOISE)


def test_an_avif_is_decoded_by_one_thread():
    """Pillow would use as many as there are cores, in each worker."""
    decode(encode(NOISE, "AVIF"))
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


ROTATED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, -1),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE, 1),
}


@pytest.mark.parametrize("orientation", ROTATED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_is_rotated_by_its_exif_orientation(kind, orientation):
    options = LOSSLESS.get(kind, {"quality": 100, "subsampling": 0})
    pixels = decode(encode(PICTURE, kind, exif=oriented(orientation), **options))
    assert pixels.shape == ROTATED[orientation].shape
    np.testing.assert_allclose(pixels.astype(int), ROTATED[orientation], atol=4)


@pytest.mark.parametrize("orientation", ROTATED)
def test_a_photo_decoded_at_half_scale_is_rotated_too(orientation):
    rotated = ROTATED[orientation]
    pixels = decode(encode(PICTURE, "JPEG", quality=100, subsampling=0, exif=oriented(orientation)), least=16)
    assert pixels.shape == (rotated.shape[0] // 2, rotated.shape[1] // 2, 3)
    np.testing.assert_allclose(pixels.astype(int), rotated[::2, ::2], atol=4)


def as_pillow_turns_it(content: bytes) -> np.ndarray:
    """The pixels after ``ImageOps.exif_transpose``, or, if that fails to read damaged tags, without it."""
    with warnings.catch_warnings(action="ignore"):
        image = Image.open(io.BytesIO(content))
        with contextlib.suppress(Exception):
            # It turns the pixels before it writes the tags back, which fails if another one has the wrong type.
            ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(image.convert("RGB"))


def with_exif(exif: bytes, kind: str) -> bytes:
    return encode(PICTURE, kind, exif=b"Exif\0\0" + exif, **LOSSLESS.get(kind, {"quality": 95}))


def packet(orientation: int, attribute: bool) -> str:
    tag = f'tiff:Orientation="{orientation}"/>' if attribute else f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    return f"<x:xmpmeta><rdf:Description {tag}</x:xmpmeta>"


@st.composite
def exif_blocks(draw) -> bytes:
    """EXIF data with a few tags of any type and count, often an orientation, in either byte order, perhaps damaged."""
    order = draw(st.sampled_from("<>"))
    tags = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0x0112, 0x0112, 0x010F, 0x011A, 0x8769]),
                st.sampled_from([3, 3, 3, 4, 1, 2, 5, 7, 9, 12, 13, 0, 99]),
                st.sampled_from([1, 1, 1, 0, 2, 4, 9, 2**31]),
                st.sampled_from([b"1", b"3", b"6", b"8", b"0", b"9"]),
            ),
            max_size=4,
        )
    )
    body = b""
    for tag, kind, count, digit in tags:
        value = int(digit)
        data = struct.pack(order + ("HH" if kind == 3 else "I"), *((value, 0) if kind == 3 else (value,)))
        body += struct.pack(order + "HHI", tag, kind, count) + data
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(tags))
    whole = head + body + bytes(4)
    return whole[: draw(st.integers(1, len(whole)) | st.just(len(whole)))]


@settings(max_examples=300, deadline=None)
@given(exif_blocks(), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_any_exif_orientation_is_applied_as_pillow_does(exif, kind):
    content = with_exif(exif, kind)
    np.testing.assert_array_equal(decode(content), as_pillow_turns_it(content))


@pytest.mark.parametrize("attribute", [True, False])
@pytest.mark.parametrize("orientation", ROTATED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_is_applied_if_exif_has_none(kind, orientation, attribute):
    xmp = packet(orientation, attribute).encode()
    rows = np.insert(PICTURE.reshape(32, -1), 0, 0, axis=1).tobytes()
    chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    for exif in (None, oriented(3)):
        turned = {} if exif is None else {"exif": exif}
        if kind == "PNG":
            extra = chunk + (png_chunk(b"eXIf", exif.tobytes()[6:]) if exif else b"")
            content = png(48, 32, rows=rows, extra=extra)
        else:
            options = LOSSLESS.get(kind, {"quality": 100, "subsampling": 0})
            content = encode(PICTURE, kind, xmp=xmp, **turned, **options)
        pixels = decode(content)
        np.testing.assert_array_equal(pixels, as_pillow_turns_it(content))
        np.testing.assert_allclose(pixels.astype(int), ROTATED[3 if exif else orientation], atol=4)


def test_an_orientation_in_a_text_of_imagemagick_is_applied():
    exif = oriented(6).tobytes()
    rows = np.insert(PICTURE.reshape(32, -1), 0, 0, axis=1).tobytes()
    text = b"Raw profile type exif\0\nexif\n%d\n" % len(exif) + exif.hex().encode()
    content = png(48, 32, rows=rows, extra=png_chunk(b"tEXt", text))
    np.testing.assert_array_equal(decode(content), ROTATED[6])
    np.testing.assert_array_equal(as_pillow_turns_it(content), ROTATED[6])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("least", "shape"),
    [
        (0, (200, 303, 3)),
        (1, (25, 38, 3)),
        (25, (25, 38, 3)),
        (26, (50, 76, 3)),
        (100, (100, 152, 3)),
        (101, (200, 303, 3)),
        (999, (200, 303, 3)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_with_the_least_number_of_pixels(mode, least, shape):
    image = Image.new("RGB", (303, 200), (200, 90, 30)).convert(mode)
    pixels = decode(encode(image, "JPEG", quality=95), least)
    assert pixels.shape == shape
    np.testing.assert_allclose(pixels[0, 0], np.array(image.convert("RGB"))[0, 0], atol=8)


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([32, 64, 96]), st.integers(1, 4))
def test_a_smaller_photo_is_the_same_from_the_file_and_from_the_larger_photo(encoding, width, height, size, times):
    content = encode(np.resize(NOISE, (height, width, 3)), encoding)
    larger = plain_photo(content, size * times)
    np.testing.assert_array_equal(smaller_photo(content, size, larger), plain_photo(content, size))


def test_other_formats_are_decoded_at_full_scale():
    assert decode(encode(PICTURE), least=4).shape == PICTURE.shape


def test_decoding_at_reduced_scale_is_close_to_averaging_pixels():
    smooth = np.array(Image.fromarray(NOISE[:8, :12]).resize((384, 256), Image.Resampling.BICUBIC))
    content = encode(smooth, "JPEG", quality=95)
    means = decode(content).reshape(64, 4, 96, 4, 3).mean(axis=(1, 3))
    assert np.abs(decode(content, least=64) - means).mean() < 1


def test_an_image_may_have_as_many_pixels_as_the_caller_allows():
    content = encode(PICTURE)
    assert decode(content, most=48 * 32).shape == (32, 48, 3)
    with pytest.raises(ValueError, match=r"^more than 1,535 pixels$"):
        decode(content, most=48 * 32 - 1)


@pytest.mark.parametrize("content", [png(60_000, 60_000), tiff(60_000, 60_000), HOSTILE_FILES["bomb.jpg"].content])
def test_a_decompression_bomb_is_rejected_before_any_pixel_is_decoded(content, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ValueError, match="more than 178,956,970 pixels"):
        decode(content)


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), "not enough memory"), (RecursionError("deep"), "damaged or truncated")]
)
def test_any_error_of_a_decoder_becomes_a_reason(error, reason, monkeypatch):
    def load(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ValueError, match=reason):
        decode(encode(PICTURE, "JPEG"))


def test_stderr_works_again_after_a_tiff(capfd):
    decode(encode(PICTURE, "TIFF"))
    os.write(2, b"visible")
    assert capfd.readouterr().err == "visible"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(WHOLE_FILES)), st.data())
def test_a_truncated_file_is_rejected_unless_no_pixel_is_missing(name, data):
    whole = WHOLE_FILES[name]
    result = decode_or_reason(whole[: data.draw(st.integers(0, len(whole) - 1))])
    if not isinstance(result, str):
        np.testing.assert_array_equal(result, decode(whole))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SMALL_FILES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    st.integers(0, 20),
)
def test_damaged_bytes_are_decoded_or_rejected_with_a_reason(content, changes, least):
    content = bytearray(content or b"\0")
    for place, value in changes:
        content[place % len(content)] = value
    decode_or_reason(bytes(content), least)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBPVP8X"]),
    st.binary(max_size=200),
)
def test_random_bytes_are_decoded_or_rejected_with_a_reason(head, tail):
    decode_or_reason(head + tail)


class TestOneLargeImage:
    LARGE, SMALL = (encode(np.zeros((side, side, 3), np.uint8), "PNG") for side in (60, 40))

    @pytest.fixture(autouse=True)
    def fifty_pixels_square(self, monkeypatch):
        monkeypatch.setattr(decoding, "LARGE_PIXELS", 50 * 50)

    def test_is_decoded_and_processed_at_a_time(self):
        lock, inside, most = threading.Lock(), [], []

        def work(_):
            with one_large_image(lock):
                decode(self.LARGE)
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.01)
                inside.pop()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(12)))
        assert most == [1] * 12

    @pytest.mark.parametrize(
        ("content", "least", "waits"),
        [
            (SMALL, 0, False),
            (LARGE, 0, True),
            (encode(np.zeros((60, 60, 3), np.uint8), "JPEG"), 0, True),
            (encode(np.zeros((60, 60, 3), np.uint8), "JPEG"), 20, False),
            (encode(np.zeros((60, 60, 3), np.uint8), "JPEG", progressive=True), 20, True),
        ],
    )
    def test_waits_for_its_turn_and_a_small_one_does_not(self, content, least, waits):
        lock = threading.Lock()
        with one_large_image(lock):
            decode(content, least)
            decode(content, least)  # again, as for the views
            assert lock.locked() == waits
        assert not lock.locked()

    def test_that_is_damaged_does_not_keep_the_others_waiting(self):
        lock = threading.Lock()
        with pytest.raises(ValueError, match="truncated"), one_large_image(lock):
            decode(encode(NOISE.repeat(9, 0).repeat(9, 1), "JPEG")[:-300])
        assert not lock.locked()

    def test_needs_no_lock(self):
        assert decode(self.LARGE).shape == (60, 60, 3)
