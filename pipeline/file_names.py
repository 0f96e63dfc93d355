"""What a file of a source is, by its path alone: an image, an archive, a split's, or what systems leave behind."""

import posixpath
from collections.abc import Iterable

from pipeline.dataset.raw_archive import CLASSES_FILE

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
