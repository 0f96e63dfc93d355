"""What a file of a source is, by its path alone: an image, an archive, a split's, or what systems leave behind."""

import html
import posixpath
import re
from collections.abc import Iterable
from enum import Enum

from pipeline.common.raw_archive import CLASSES_FILE
from pipeline.errors import one_line

HEAD = 4096  # bytes that tell a kind, and hold a page's title


class Kind(Enum):
    """A kind of file; its value names it in a message."""

    JPEG = "a JPEG image"
    PNG = "a PNG image"
    GIF = "a GIF image"
    BMP = "a BMP image"
    WEBP = "a WebP image"
    AVIF = "an AVIF image"
    RAW = "a camera's RAW file"
    TIFF = "a TIFF image"
    HEIC = "a HEIC image"
    JPEG_XL = "a JPEG XL image"
    JPEG_2000 = "a JPEG 2000 image"
    PSD = "a PSD image"
    SVG = "an SVG image"
    VIDEO = "a video"
    ZIP = "a zip archive"
    GZIP = "a gzip file"
    BZIP2 = "a bzip2 file"
    XZ = "an xz file"
    ZSTANDARD = "a Zstandard file"
    RAR = "a RAR archive"
    SEVEN_ZIP = "a 7-Zip archive"
    PDF = "a PDF document"
    POINTER = "a Git LFS pointer and not the file that it stands for (git lfs pull fetches that)"
    PAGE = "a web page (HTML)"
    XML = "an XML text, perhaps an error message"
    JSON = "a JSON text, perhaps an error message"


# The first that matches: RAW files are TIFF files, a HEIC file begins as a video does, and SVG is XML.
_BEGINNINGS = {
    Kind.JPEG: rb"\xff\xd8\xff",
    Kind.PNG: rb"\x89PNG\r\n\x1a\n",
    Kind.GIF: rb"GIF8",
    Kind.BMP: rb"BM.{4}\0{4}",
    Kind.WEBP: rb"RIFF.{4}WEBP",
    Kind.AVIF: rb"....ftypavi[fs]",
    Kind.RAW: rb"II\*\0.{4}CR|II(RO|RS|U\0)|MMOR|FUJIFILMCCD|....ftypcrx",
    Kind.TIFF: rb"II[*+]\0|MM\0[*+]",
    Kind.HEIC: rb"....ftyp(hei|hev|mif1|msf1)",
    Kind.VIDEO: rb"....ftyp",
    Kind.JPEG_XL: rb"....JXL |\xff\x0a",
    Kind.JPEG_2000: rb"....jP  |\xff\x4f\xff\x51",
    Kind.PSD: rb"8BPS",
    Kind.ZIP: rb"PK(\x03\x04|\x05\x06)",
    Kind.GZIP: rb"\x1f\x8b",
    Kind.BZIP2: rb"BZh",
    Kind.XZ: rb"\xfd7zXZ\0",
    Kind.ZSTANDARD: rb"\x28\xb5\x2f\xfd",
    Kind.RAR: rb"Rar!\x1a\x07",
    Kind.SEVEN_ZIP: rb"7z\xbc\xaf\x27\x1c",
    Kind.PDF: rb"%PDF-",
    Kind.POINTER: rb"version https://git-lfs",
    Kind.PAGE: rb"(\xef\xbb\xbf)?\s*<(?i:!doctype\s+html|html|head|body)\b",
    Kind.SVG: rb".*<svg",
    Kind.XML: rb"<\?xml",
    Kind.JSON: rb'\{"',
}


def kind_of(head: bytes) -> Kind | None:
    """Tell a file's kind from its first bytes (``HEAD`` or fewer), None where it is none of these."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if re.match(beginning, head, re.DOTALL)), None)


def what_it_is(head: bytes) -> str | None:
    """Name a file's kind in words, a web page with its title; None as in ``kind_of``."""
    kind = kind_of(head)
    if kind is not Kind.PAGE:
        return kind and kind.value
    found = re.search(rb"<title[^>]*>(.*?)</title", head, re.IGNORECASE | re.DOTALL)
    title = one_line(html.unescape(found[1].decode("utf-8", "replace")))[:80] if found else ""
    return f"{kind.value}, titled '{title}'" if title else kind.value


SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
    "evaluation": "test",
}
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif"}
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
# Left behind by macOS, Windows, NAS systems and disk checks; whatever begins with a dot is passed over, too.
JUNK = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "@eadir",
    "#recycle",
    "@recycle",
    "lost+found",
}
# Folders whose pictures illustrate a README, where a data set stands beside them; with more pictures it is one itself.
DECORATION = {"assets", "asset", "doc", "docs", "figures", "screenshots"}
MOST_DECORATION = 20


def is_junk(path: str) -> bool:
    """Whether a system left the file behind, or its name begins with a dot: no part of a data set."""
    return any(part.startswith(".") or part.lower() in JUNK for part in path.split("/"))


def is_image(path: str) -> bool:
    """Whether the file's ending is that of an image."""
    return posixpath.splitext(path)[1].lower() in IMAGE_ENDINGS


def is_archive(path: str) -> bool:
    """Whether the file's ending is that of a zip or a tar."""
    return path.lower().endswith(ARCHIVE_ENDINGS)


def is_part(path: str) -> bool:
    """Whether the file can belong to a data set: nothing else is opened, copied or looked into."""
    return not is_junk(path) and (is_image(path) or is_archive(path) or posixpath.basename(path) == CLASSES_FILE)


def archive_stem(path: str) -> str:
    """Return the path of an archive without its ending: ``hw3/train.tar.gz`` gives ``hw3/train``."""
    return path[: -max(len(ending) for ending in ARCHIVE_ENDINGS if path.lower().endswith(ending))]


def decoration(images: Iterable[str]) -> set[str]:
    """Return those images that illustrate a README, should a data set stand beside them: few, in folders named so."""
    found = {path for path in images if any(part.lower() in DECORATION for part in path.split("/")[:-1])}
    return found if len(found) <= MOST_DECORATION else set()
