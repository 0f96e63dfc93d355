"""The format of a file is recognised by its first bytes."""

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.common.file_types import HEAD, Kind, describe, kind_of


def image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(content, kind)
    return content.getvalue()


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return content.getvalue()


WRITTEN = {
    Kind.JPEG: image("JPEG"),
    Kind.PNG: image("PNG"),
    Kind.GIF: image("GIF"),
    Kind.BMP: image("BMP"),
    Kind.WEBP: image("WEBP"),
    Kind.TIFF: image("TIFF"),
    Kind.ZIP: zipped("drawing.<svg"),
    Kind.GZIP: gzip.compress(b"<svg", mtime=0),
    Kind.BZIP2: bz2.compress(b""),
    Kind.XZ: lzma.compress(b""),
}
BEGINNINGS = [
    (Kind.ZIP, zipped()),
    (Kind.RAW, b"II*\0\x10\0\0\0CR\x02\0"),
    (Kind.AVIF, b"\0\0\0\x1cftypavif"),
    (Kind.HEIC, b"\0\0\0\x1cftypheic"),
    (Kind.VIDEO, b"\0\0\0\x1cftypisom"),
    (Kind.SVG, b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
    (Kind.XML, b'<?xml version="1.0"?><Error/>'),
    (Kind.JSON, b'{"error": "no such file"}'),
    (Kind.PAGE, b"\xef\xbb\xbf\n<HTML lang='en'>"),
    (Kind.PAGE, b"<!doctype  html>"),
    (None, b"<headers/>"),
    (None, b""),
    (None, bytes(HEAD)),
]


@pytest.mark.parametrize(("kind", "content"), [*WRITTEN.items(), *BEGINNINGS])
def test_a_format_is_recognised_by_the_first_bytes(kind, content):
    assert kind_of(content[:HEAD]) is kind
    assert describe(content[:HEAD]) == (kind and kind.value)


@pytest.mark.parametrize(
    ("title", "named"),
    [
        ("404", ", titled '404'"),
        (" Log\nin &amp; out ", ", titled 'Log in & out'"),
        ("", ""),
        ("a" * 100, f", titled '{'a' * 80}'"),
    ],
)
def test_a_web_page_is_described_with_its_title(title, named):
    assert describe(f"<html><title>{title}</title>".encode()) == f"a web page (HTML){named}"
