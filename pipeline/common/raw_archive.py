"""``data/raw.zip``: the original images in one deterministic archive.

Labelled images are ``{split}/{class index}_{name}``, unlabelled ones ``{split}/{name}``; ``classes.txt`` contains one
class name per line. An unlabelled name that looks like a labelled one gets a leading underscore.
"""

import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.common.files import replacing
from pipeline.errors import PipelineError
from pipeline.progress import progress

SPLITS = ("train", "valid", "test")
CLASSES_FILE = "classes.txt"
LABELLED = re.compile(r"(\d+)_(.+)", re.DOTALL)
_LOOKS_LABELLED = re.compile(r"_*\d+_.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image of the archive.

    Attributes:
        entry, split: its name in the archive, and the first folder of that.
        label: the class index; None if it is unlabelled.
        id: unique in its split.
        offset, size, crc: the position of its header, and the size and checksum of its content.
    """

    entry: str
    split: str
    label: int | None
    id: str
    offset: int = field(default=0, compare=False)
    size: int = field(default=0, compare=False)
    crc: int = field(default=0, compare=False)


def entry_name(split: str, label: int | None, name: str) -> str:
    """Return the entry of an image with this split, class index (None: unlabelled) and file name."""
    if label is not None:
        return f"{split}/{label}_{name}"
    return f"{split}/{'_' if _LOOKS_LABELLED.fullmatch(name) else ''}{name}"


def write_raw_archive(
    path: Path, classes: Iterable[str], entries: dict[str, str], read: Callable[[str], bytes]
) -> None:
    """Write the archive with sorted entries, fixed times and permissions, uncompressed, so that it is deterministic.

    Args:
        path: the archive.
        classes: the class names in the order of their indices.
        entries: for each entry, the argument for ``read``.
        read: returns the content of an image.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(CLASSES_FILE), "".join(f"{name}\n" for name in classes))
        for entry in progress(sorted(entries), len(entries), "download"):
            archive.writestr(_entry(entry), read(entries[entry]))


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def read_raw_archive(archive: zipfile.ZipFile) -> tuple[tuple[str, ...], list[RawImage]]:
    """Return the class names, and the images in the order train, valid, test, sorted by entry within each split."""
    classes = tuple(archive.read(CLASSES_FILE).decode().split("\n")[:-1])
    entries = [info for info in archive.infolist() if info.filename != CLASSES_FILE]
    images = [image for split in SPLITS for image in _of_split(split, entries)]
    return classes, images


def _of_split(split: str, entries: Iterable[zipfile.ZipInfo]) -> list[RawImage]:
    """The images of one split; the id is the file name without its extension, unless two ids would be equal."""
    found = []
    members = (info for info in entries if info.filename.startswith(f"{split}/"))
    for info in sorted(members, key=lambda info: info.filename):
        name = info.filename.removeprefix(f"{split}/")
        match = LABELLED.fullmatch(name)
        label = int(match[1]) if match else None
        found.append((info, label, name[1:] if match is None and _LOOKS_LABELLED.fullmatch(name) else name))
    ids = _ids([name for _, _, name in found])
    return [
        RawImage(info.filename, split, label, id, info.header_offset, info.file_size, info.CRC)
        for (info, label, _), id in zip(found, ids, strict=True)
    ]


class RawReader:
    """Reads images by their offsets, without the archive's table of contents, which takes a kilobyte per image."""

    _HEADER, _LENGTHS = 30, struct.Struct("<HH")  # bytes of a local header; lengths of name and extra at its end

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, os.open(path, os.O_RDONLY)

    def read(self, image: RawImage) -> bytes:
        """Return the content of an image.

        Raises:
            PipelineError: the archive is damaged at this image.
        """
        header = os.pread(self._file, self._HEADER, image.offset)
        if len(header) == self._HEADER:
            start = image.offset + self._HEADER + sum(self._LENGTHS.unpack(header[-4:]))
            content = os.pread(self._file, image.size, start)
            if len(content) == image.size and zlib.crc32(content) == image.crc:
                return content
        raise PipelineError(f"{self._path}: is damaged at {image.entry}; run dvc repro --force download")


def _ids(names: list[str]) -> list[str]:
    stems = [PurePosixPath(name).stem for name in names]
    counts = Counter(stems)
    short = [stem if counts[stem] == 1 else name for name, stem in zip(names, stems, strict=True)]
    # A name with its extension can be the stem of another one: a.jpg, a.png, a.jpg.png.
    return short if len(set(short)) == len(short) else names
