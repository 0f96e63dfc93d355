"""What a file is: its format by its first bytes, and by its name whether it is an image, an archive or junk."""

import html
import posixpath
import re
from collections import defaultdict
from enum import Enum

from pipeline.common.text import one_line, shown_name

HEAD = 4096  # bytes; enough for the format, and for the title of a web page
LARGEST_FILE = 2**30  # bytes of an image


class Kind(Enum):
    """The format of a file; the value is its name in messages."""

    JPEG = "a JPEG image"
    PNG = "a PNG image"
    GIF = "a GIF image"
    BMP = "a BMP image"
    WEBP = "a WebP image"
    AVIF = "an AVIF image"
    RAW = "a camera RAW file"
    TIFF = "a TIFF image"
    HEIC = "a HEIC image"
    NETPBM = "a PPM, PGM or PBM image"
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
    POINTER = "a Git LFS pointer, not the file itself (run git lfs pull)"
    PAGE = "a web page (HTML)"
    XML = "XML text, perhaps an error message"
    JSON = "JSON text, perhaps an error message"


# The first match counts: RAW files are TIFF files, a HEIC file begins like a video, and SVG is XML.
_BEGINNINGS = {
    Kind.JPEG: rb"\xff\xd8\xff",
    Kind.PNG: rb"\x89PNG\r\n\x1a\n",
    Kind.GIF: rb"GIF8",
    Kind.BMP: rb"BM.{4}\0{4}",
    Kind.WEBP: rb"RIFF.{4}WEBP",
    Kind.AVIF: rb"....ftyp(avi[fs]|m[is]f1.{4}(....){0,8}?avi[fs])",
    Kind.RAW: rb"II\*\0.{4}CR|II(RO|RS|U\0)|MMOR|FUJIFILMCCD|....ftypcrx",
    Kind.TIFF: rb"II[*+]\0|MM\0[*+]",
    Kind.HEIC: rb"....ftyp(hei|hev|mif1|msf1)",
    Kind.VIDEO: rb"....ftyp",
    Kind.NETPBM: rb"P[1-6](\s|#[^\n]*\n)+\d+\s",
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
    """Return the format of a file by its first bytes (``HEAD`` or fewer); None if it is unknown."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if re.match(beginning, head, re.DOTALL)), None)


def describe(head: bytes) -> str | None:
    """Return the format in words, for a web page with its title; None if it is unknown."""
    kind = kind_of(head)
    if kind is not Kind.PAGE:
        return kind and kind.value
    found = re.search(rb"<title[^>]*>(.*?)</title", head, re.IGNORECASE | re.DOTALL)
    title = one_line(html.unescape(found[1].decode("utf-8", "replace")))[:80] if found else ""
    return f"{kind.value}, titled '{title}'" if title else kind.value


IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm"),
}
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
TEXT_ENDINGS = {".txt", ".csv", ".tsv"}
# Many of them begin like a TIFF image, but contain what only a converter can develop.
_RAW_ENDINGS = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
# Created by macOS, Windows, NAS systems and disk checks.
JUNK = {
    "__macosx",
    ".ds_store",
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
# What the first bytes of an image say that has another ending, or none.
_IMAGES = {Kind.JPEG, Kind.PNG, Kind.GIF, Kind.BMP, Kind.WEBP, Kind.AVIF, Kind.TIFF, Kind.HEIC, Kind.NETPBM}


def junk_reason(path: str) -> str | None:
    """Why a file cannot belong to a dataset, by the names of the file and of its folders; None if it can."""
    parts = path.split("/")
    if any(map(is_of_system, parts)):
        return "created by an operating system"
    if any(part.startswith(".") for part in parts):
        return "hidden, since a name begins with a dot"
    return None


def is_of_system(name: str) -> bool:
    """Whether an operating system created the file or the folder with this name."""
    return name.lower() in JUNK or name.startswith("._")


def is_junk(path: str) -> bool:
    """Whether an operating system created the file or one of its folders, or a name begins with a dot."""
    return junk_reason(path) is not None


def is_image(path: str) -> bool:
    """Whether the file has the ending of an image."""
    return posixpath.splitext(path)[1].lower() in IMAGE_ENDINGS


def is_archive(path: str) -> bool:
    """Whether the file has the ending of a zip or a tar."""
    return path.lower().endswith(ARCHIVE_ENDINGS)


def is_text(path: str) -> bool:
    """Whether the file has the ending of a table or a list."""
    return posixpath.splitext(path)[1].lower() in TEXT_ENDINGS


def is_part(path: str) -> bool:
    """Whether a file can belong to a dataset by its name: an image, an archive, a table of labels or class names."""
    return not is_junk(path) and (is_image(path) or is_archive(path) or is_text(path))


def other_reason(path: str, head: bytes) -> str | None:
    """Why a file with another ending than those of ``is_part`` is not an image, by its first bytes; None if it is."""
    if posixpath.splitext(path)[1].lower() in _RAW_ENDINGS:
        return f"{Kind.RAW.value}: convert it to JPEG"
    kind = kind_of(head)
    if kind in _IMAGES:
        return None
    return kind.value if kind else "not an image"


def reasons(left_out: dict[str, str]) -> str:
    """Count the files that were left out by reason, each with the first path: ``a video: 2 (cat/a.mp4, ...)``."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in sorted(left_out.items()):
        by_reason[reason].append(shown_name(path))
    ordered = sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return "; ".join(f"{reason}: {len(paths):,} ({paths[0]}{', ...' * (len(paths) > 1)})" for reason, paths in ordered)


def archive_stem(path: str) -> str:
    """Return the path of an archive without its ending: ``hw3/train`` for ``hw3/train.tar.gz``."""
    return path[: -max(len(ending) for ending in ARCHIVE_ENDINGS if path.lower().endswith(ending))]
